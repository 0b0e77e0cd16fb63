"""Which tokens of the dense network each token of a network stands for whose blocks merge them."""

from dataclasses import dataclass

import torch

from ..models.snp_vit.modeling_snp_vit import gather_tokens


@dataclass(frozen=True)
class Groups:
    """The groups of tokens of some images.

    Attributes:
        sizes (`torch.Tensor` of shape `[images, groups]`): How many tokens each has.
        places (`torch.Tensor` of shape `[images, tokens]`): The group of every token.
    """

    sizes: torch.Tensor
    places: torch.Tensor

    def to(self, device: torch.device) -> "Groups":
        return Groups(self.sizes.to(device), self.places.to(device))

    def sum(self, states: torch.Tensor) -> torch.Tensor:
        """From all tokens `[images, tokens, channels]` to their sums by group, `[images, groups, channels]`."""
        sums = states.new_zeros(states.shape[0], self.sizes.shape[1], states.shape[2])
        return sums.scatter_add(1, self.places.unsqueeze(-1).expand_as(states), states)

    def mean(self, states: torch.Tensor) -> torch.Tensor:
        """The same of their means."""
        return self.sum(states) / self.sizes.unsqueeze(-1).to(states.dtype)

    def spread(self, states: torch.Tensor) -> torch.Tensor:
        """From groups `[images, groups, channels]` back to all tokens, each with the state of its group."""
        return gather_tokens(states, self.places)

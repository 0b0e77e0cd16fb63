"""ToMe itself (arXiv 2210.09461): pairs of patches alike by their keys, as many in every block.

alike: the cosine of the keys, their mean over the heads;   merged: the best pairs between two sets in turn
"""

import torch
from torch import nn
from torch.nn import functional as F

from optimum_snp.models import SNPModel


def counts(num_patches: int, num_blocks: int, total: int) -> list[int] | None:
    """As many in every block; what is over falls to the first ones. `None` if blocks would lose more than half."""
    merged = [total // num_blocks + (index < total % num_blocks) for index in range(num_blocks)]
    left = [num_patches - sum(merged[:index]) for index in range(num_blocks)]
    return merged if all(2 * count <= patches for count, patches in zip(merged, left, strict=True)) else None


def install(model: SNPModel) -> None:
    """Has the blocks of a model that merge tokens choose them as ToMe does."""
    for layer in model.base_model.layers:
        if ours := layer.token_merging:
            heads = layer.attention.num_attention_heads
            layer.token_merging = ToMe(ours.num_merged, ours.num_extra_tokens, heads)


class ToMe(nn.Module):
    """Stands in for the merging of a block: the same inputs and outputs."""

    def __init__(self, num_merged: int, num_extra_tokens: int, num_attention_heads: int):
        super().__init__()
        self.num_merged = num_merged
        self.num_extra_tokens = num_extra_tokens
        self.num_attention_heads = num_attention_heads

    def forward(
        self, hidden_states: torch.Tensor, keys: torch.Tensor, token_sizes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        patches = keys.unflatten(-1, (self.num_attention_heads, -1)).mean(dim=-2)[:, self.num_extra_tokens :]
        places = self.places(F.normalize(patches, dim=-1))
        extra = torch.arange(self.num_extra_tokens).expand(len(places), -1)
        return merge(hidden_states, token_sizes, torch.cat((extra, places + self.num_extra_tokens), dim=1))

    def places(self, directions: torch.Tensor) -> torch.Tensor:
        """From directions of patches `[images, patches, channels]` to the group of each."""
        similarity, partners = (directions[:, ::2] @ directions[:, 1::2].mT).max(dim=-1)
        order = similarity.argsort(dim=-1, descending=True)
        merged, kept = order[:, : self.num_merged], order[:, self.num_merged :]
        num_kept = kept.shape[1]
        places = torch.empty(directions.shape[:2], dtype=torch.long)
        first = torch.empty_like(order).scatter(1, kept, torch.arange(num_kept).expand_as(kept))
        places[:, ::2] = first.scatter(1, merged, num_kept + partners.gather(1, merged))
        places[:, 1::2] = num_kept + torch.arange(directions.shape[1] // 2)
        return places


def merge(
    hidden_states: torch.Tensor, token_sizes: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The means of the groups, weighted by what each token stands for; their sizes; the group of each token."""
    num_groups = int(places.max()) + 1
    sizes = token_sizes.new_zeros(len(places), num_groups).scatter_add(1, places, token_sizes)
    sums = hidden_states.new_zeros(len(places), num_groups, hidden_states.shape[-1])
    weighted = hidden_states * token_sizes.unsqueeze(-1)
    sums = sums.scatter_add(1, places.unsqueeze(-1).expand_as(weighted), weighted)
    return sums / sizes.unsqueeze(-1), sizes, places

"""The losses of all sizes of all parts.

Each loss is the mean over the calibration images of the squared change of the model's outputs (logits, or features
where there are none) when one part alone gets one size, to first order: the second moment of the change that pruning
makes to the part, by the sensitivity of the outputs to changes there. The changes are those of the method, in closed
form, refits included. Losses of different parts count as additive.

Source: our choice. On two models trained on digits the losses of single parts rank as what pruning them does to the
logits (docs/budgets.md).
"""

from dataclasses import dataclass

import torch

from ..plan.sizes import Part, Slot


@dataclass
class Losses:
    """The loss of every size, `[size + 1]`, float64; entry `r` is that of `r` neurons kept, so the last is 0.
    Sizes that a part cannot have are infinite.

    Attributes:
        query_key, value, mlp (`list[torch.Tensor]`):
            One per block; sizes are per head for the first two.
        widths (`list[torch.Tensor]`):
            One per residual stream.
    """

    query_key: list[torch.Tensor]
    value: list[torch.Tensor]
    mlp: list[torch.Tensor]
    widths: list[torch.Tensor]

    def curve(self, slot: Slot) -> torch.Tensor:
        """The loss of every size of one part."""
        curves = {
            Part.QUERY_KEY: self.query_key,
            Part.VALUE: self.value,
            Part.MLP: self.mlp,
            Part.WIDTH: self.widths,
        }
        part, index = slot
        return curves[part][index]

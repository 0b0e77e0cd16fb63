"""PiToMe (arXiv 2405.16148): patches with many others like them merge, those that stand alone are left in peace.

energy of a patch: the mean over all patches of elu(cosine of the keys - margin), margin .9 falling to 0 with depth
merged: of the 2 r patches of most energy, every other one into the most alike of the rest of them
"""

import itertools

import torch
from torch.nn import functional as F

from optimum_snp.models import SNPModel

from .tome import ToMe


def counts(num_patches: int, num_blocks: int, total: int) -> list[int] | None:
    """The same share of what is left in every block, which leaves `total` fewer; `None` if that is more than half."""
    kept = (1 - total / num_patches) ** (1 / num_blocks)
    left = [round(num_patches * kept**block) for block in range(num_blocks + 1)]
    merged = [before - after for before, after in itertools.pairwise(left)]
    return merged if all(2 * count <= before for count, before in zip(merged, left, strict=False)) else None


def install(model: SNPModel) -> None:
    """Has the blocks of a model that merge tokens choose them as PiToMe does."""
    layers = model.base_model.layers
    for index, layer in enumerate(layers):
        if ours := layer.token_merging:
            heads = layer.attention.num_attention_heads
            layer.token_merging = PiToMe(
                ours.num_merged, ours.num_extra_tokens, heads, 0.9 - 0.9 * index / len(layers)
            )


class PiToMe(ToMe):
    """Stands in for the merging of a block: the same inputs and outputs."""

    def __init__(self, num_merged: int, num_extra_tokens: int, num_attention_heads: int, margin: float):
        super().__init__(num_merged, num_extra_tokens, num_attention_heads)
        self.margin = margin

    def places(self, directions: torch.Tensor) -> torch.Tensor:
        """From directions of patches `[images, patches, channels]` to the group of each."""
        similarity = directions @ directions.mT
        energy = F.elu(similarity - self.margin).mean(dim=-1)
        order = energy.argsort(dim=-1, descending=True)
        mergeable, kept = order[:, : 2 * self.num_merged], order[:, 2 * self.num_merged :]
        first, second = mergeable[:, ::2], mergeable[:, 1::2]
        rows = similarity.gather(1, first.unsqueeze(-1).expand(-1, -1, similarity.shape[2]))
        partners = rows.gather(2, second.unsqueeze(1).expand(-1, first.shape[1], -1)).argmax(dim=-1)
        num_kept = kept.shape[1]
        places = torch.empty_like(order).scatter(1, kept, torch.arange(num_kept).expand_as(kept))
        places = places.scatter(1, second, num_kept + torch.arange(second.shape[1]).expand_as(second))
        return places.scatter(1, first, num_kept + partners)

"""Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) of whole batches."""

import torch
import torch.nn.functional as F

from .recipes import Recipe


class Mixing:
    """Blends every image of a batch with its neighbour, or pastes a part of the neighbour into it.

    One share for the whole batch, as in DeiT; it runs where the batch is, on the accelerator.

    Args:
        mixup, cutmix (`float`):
            Parameters of the symmetric beta distribution of the shares; 0 is off. With both, each batch gets either
            by the toss of a coin.
        num_labels (`int`):
            Classes.
    """

    def __init__(self, mixup: float, cutmix: float, num_labels: int):
        self.mixup = mixup
        self.cutmix = cutmix
        self.num_labels = num_labels

    @classmethod
    def of(cls, recipe: Recipe | None, num_labels: int) -> "Mixing | None":
        """The mixing of a recipe, or `None` where it has none."""
        if recipe is None or not (recipe.mixup or recipe.cutmix):
            return None
        return cls(recipe.mixup, recipe.cutmix, num_labels)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes.

        Args:
            images (`torch.Tensor`): `[batch, C, H, W]`.
            labels (`torch.Tensor`): Classes, `[batch]`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Images and probabilities of the classes, `[batch, num_labels]`.
        """
        use_cutmix = not self.mixup or (self.cutmix > 0 and bool(torch.rand(()) < 0.5))
        strength = self.cutmix if use_cutmix else self.mixup
        share = torch.distributions.Beta(strength, strength).sample().item()  # of the image itself
        neighbours = images.roll(1, dims=0)
        if use_cutmix:
            top, bottom, left, right = _random_box(*images.shape[-2:], 1 - share)
            images = images.clone()
            images[..., top:bottom, left:right] = neighbours[..., top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
        else:
            images = share * images + (1 - share) * neighbours
        probabilities = F.one_hot(labels, self.num_labels).float()
        return images, share * probabilities + (1 - share) * probabilities.roll(1, dims=0)


def _random_box(height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box of this share of the area; its centre may lie so that a part is cut off."""
    edges = []
    for length in (height, width):
        half = length * area**0.5 / 2
        centre = int(torch.randint(length, ()))
        edges += [max(0, round(centre - half)), min(length, round(centre + half))]
    return tuple(edges)

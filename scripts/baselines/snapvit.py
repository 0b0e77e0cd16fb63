"""SnapViT (arXiv 2510.17700): MLP neurons by the local curvature of a self-supervised loss, nothing made up for.

    score of a neuron = sum of H_w w^2 over its row of the first layer and its column of the second
    H = mean over images of (gradient of the loss)^2, a diagonal Hessian

The loss is DINO's across views: cross-entropy between the final features of two large crops and those of twelve,
each of length 1 and through a softmax without temperature, other views than the target's own. Ten of the twelve are
small, and all have the size of the image (github.com/WalterSimoncini/SnapViT, src/models/prunable/dino). That code
ranks by the square of the summed gradient of the first layer alone; here a weight counts as much as its removal
changes the loss to second order, from which the paper derives its score.

Left out is the evolutionary search for factors of blocks: sizes are given here, so only the order within a block
counts. Its rule for attention removes whole heads, which no row of the proving ground does.
"""

import random

import torch
from real_vit.ground import classifier_inputs
from torch.nn import functional as F

from optimum_snp import PruningPlan
from optimum_snp.methods import method_of
from optimum_snp.models import SNPModel
from optimum_snp.plan.sizes import Part
from optimum_snp.structure import describe

from .equal_sizes import plan_of_sizes


PARTS = {Part.MLP}
LARGE, SMALL = ((0.25, 1.0), 2), ((0.05, 0.25), 10)  # shares of an image's area, and how many crops
ASPECT_RATIOS = (3 / 4, 4 / 3)


def prune(dense: SNPModel, images: torch.Tensor, plan: PruningPlan, seed: int = 0) -> SNPModel:
    """The model of the plan's sizes by SnapViT's scores on these images, `[N, 3, height, width]`."""
    plan = plan_of_sizes(dense, plan, mlp=neuron_scores(dense, images, seed))
    return method_of(plan.config).reshape(dense, plan)


def neuron_scores(dense: SNPModel, images: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """The scores of all MLP neurons, `[neurons]` for each block."""
    pairs = [[dense.get_submodule(name).weight for name in (block.up, block.down)] for block in describe(dense).blocks]
    weights = [weight for pair in pairs for weight in pair]
    curvatures = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    chooser = random.Random(seed)
    for image in images:
        loss = cross_view_loss(_features(dense, _views(image, chooser)))
        for curvature, gradient in zip(curvatures, torch.autograd.grad(loss, weights), strict=True):
            curvature += gradient.double().square() / len(images)
    changes = [curvature * weight.detach().square() for curvature, weight in zip(curvatures, weights, strict=True)]
    return [up.sum(dim=1) + down.sum(dim=0) for up, down in zip(changes[::2], changes[1::2], strict=True)]


def cross_view_loss(features: torch.Tensor) -> torch.Tensor:
    """DINO's loss of the views of one image, `[views, width]`, of which the first two are targets."""
    features = F.normalize(features, dim=-1)
    targets = features[: LARGE[1]].detach().softmax(dim=-1)
    entropies = -targets @ features.log_softmax(dim=-1).mT
    return entropies.sum() - entropies.diagonal().sum()


def _features(dense: SNPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the classifier reads."""
    with classifier_inputs(dense) as found:
        dense(pixel_values)
    return found[0]


def _views(image: torch.Tensor, chooser: random.Random) -> torch.Tensor:
    """Random crops of one image, `[views, 3, height, width]`, the large ones first."""
    return torch.cat([_crop(image, area, chooser) for area, number in (LARGE, SMALL) for _ in range(number)])


def _crop(image: torch.Tensor, area: tuple[float, float], chooser: random.Random) -> torch.Tensor:
    """A crop of a random share of the area and aspect ratio, at the size of the image."""
    height, width = image.shape[-2:]
    share, ratio = chooser.uniform(*area), chooser.uniform(*ASPECT_RATIOS)
    rows = min(height, max(1, round(height * (share / ratio) ** 0.5)))
    columns = min(width, max(1, round(width * (share * ratio) ** 0.5)))
    top, left = chooser.randint(0, height - rows), chooser.randint(0, width - columns)
    crop = image[None, :, top : top + rows, left : left + columns]
    return F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True)

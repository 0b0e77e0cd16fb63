"""How many tokens merge within a budget: measured on images, since it depends on them more than on the network.

Plain backgrounds merge at next to no loss, fine textures do not. So some shares of the tokens are tried out: the
neurons get what each leaves of the budget, and the model that comes of it, in closed form, is run on some of the
images, which it was not solved from. The share whose outputs are closest to those of the dense model wins. Losses that
are predicted part by part would not do: they leave out how merging and pruning act on each other, and what large
changes saturate.

Source: our choice; the merging is ToMe's (arXiv 2210.09461).
"""

import math
from collections.abc import Callable

from transformers import PretrainedConfig

from ..configuration import AUTO, SNPConfig
from ..models import SNPModel
from ..plan.sizes import Sizes
from ..plan.tokens import merged_tokens
from ..structure import block_sizes, num_mergeable_tokens, resized_config, stream_widths
from ..structure.costs import skeleton
from .budget import Costs
from .size_costs import SizeCosts


# The shares of the patches that are tried, then half a step more and less than the best of them.
STEP = 0.125
SHARES = tuple(STEP * step for step in range(8))
# What merging does to the outputs differs little from one batch of images to the next.
NUM_IMAGES = 16


def held_out_images(num_images: int) -> int:
    """How many of the calibration images the tries are measured on: a quarter of a few, `NUM_IMAGES` of many.

    The closed form of the tries does not see these. What is fitted to images looks better on them than on others, and
    merging, which fits nothing, would lose against neurons.
    """
    return min(NUM_IMAGES, max(1, num_images // 4))


def check_tokens(config: SNPConfig, model_config: PretrainedConfig) -> None:
    """Tells before any work whether tokens can merge as `config` says.

    Raises:
        ValueError: If the architecture cannot merge tokens, or the shares do not fit the model or the budget.
    """
    if not config.token_sparsity:
        return
    num_mergeable_tokens(model_config)  # tells where none can
    if config.token_sparsity != AUTO:
        merged_tokens(config.token_sparsity, model_config, list(range(len(block_sizes(model_config)))))


def costs_with_tokens(model: SNPModel, merged: list[int], unit: str) -> SizeCosts:
    """What sizes of a model cost if its blocks merge so many tokens."""
    if not any(merged):
        return SizeCosts(model, unit)
    return SizeCosts(skeleton(type(model), _config(model, merged)), unit)


def choose_token_share(
    model: SNPModel,
    costs_of: Callable[[list[int]], Costs],
    target: float,
    allocate: Callable[[Costs, float], Sizes],
    measure: Callable[[Sizes, float], float],
) -> float:
    """The share of the patches to merge at which tokens and neurons together lose least.

    Args:
        model:
            What is left of the dense model once heads and blocks are gone that go as a whole.
        costs_of (`Callable`):
            From how many tokens every block merges to what sizes cost then.
        target (`float`):
            The cost that is allowed.
        allocate (`Callable`):
            From costs and a target to the sizes that lose least within it, or to the least sizes.
        measure (`Callable`):
            From sizes and the share of the patches that merges to what the model of them loses.

    Returns:
        `float`: Of the shares that were tried the one that loses least; the largest, if even that does not fit.
    """
    blocks = list(range(len(block_sizes(model.config))))
    losses: dict[float, float] = {}

    def try_out(share: float) -> None:
        try:
            merged = merged_tokens(share, model.config, blocks)
        except ValueError:  # the blocks are too few for it
            return
        costs = costs_of(merged)
        sizes = allocate(costs, target)
        losses[share] = measure(sizes, share) if costs.total(sizes) <= target else math.inf

    def best() -> float:
        return min(losses, key=lambda share: (losses[share], -share))

    for share in SHARES:
        try_out(share)
    middle = best()
    for share in (middle - STEP / 2, middle + STEP / 2):
        if 0 < share < 1:
            try_out(share)
    return best()


def _config(model: SNPModel, merged: list[int]) -> PretrainedConfig:
    """The config of the model, with blocks that merge so many tokens."""
    blocks = [
        {**block, "merged_tokens": count} for block, count in zip(block_sizes(model.config), merged, strict=True)
    ]
    return resized_config(model.config, blocks, stream_widths(model.config), refits=False)

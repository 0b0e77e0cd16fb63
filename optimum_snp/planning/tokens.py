"""How many tokens merge within a budget: measured on images, since it depends on them more than on the network.

Plain backgrounds merge at next to no loss, fine textures do not. So some shares of the tokens are tried out: the
neurons get what each leaves of the budget, and the model that comes of it, in closed form, is run on some of the
images, which it was not solved from. The share whose outputs are closest to those of the dense model wins. Where the
model will be reconstructed it is then held to a larger share, to tokens alone and to neurons alone, all reconstructed
([`optimum_snp.planning.trial`]): neurons have a closed form and merging has none, so that tokens gain more by it.
Losses that are predicted part by part would not do: they leave out how merging and pruning act on each other, and what
large changes saturate.

Source: our choice; the merging is ToMe's (arXiv 2210.09461).
"""

import bisect
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


# The shares of the patches that are tried are so far apart, then half a step more and less than the best of them.
STEP = 0.125
# What merging does to the outputs differs much from one image to the next.
NUM_IMAGES = 32


def held_out_images(num_images: int) -> list[range]:
    """Which of the calibration images plans are measured on, part by part: a quarter of a few, `NUM_IMAGES` of many.

    What is measured is not solved from these. What is fitted to images looks better on them than on others, and
    merging, which fits nothing, would lose against neurons. The tries are measured on the first part; the rivals on as
    many parts as have `NUM_IMAGES`, four at most, each time solved from the others.
    """
    size = min(NUM_IMAGES, max(1, num_images // 4))
    count = min(math.ceil(NUM_IMAGES / size), num_images // size, 4)
    return [range(start, start + size) for start in range(0, count * size, size)]


def check_tokens(config: SNPConfig, model_config: PretrainedConfig) -> None:
    """Tells before any work whether tokens can merge as `config` says.

    Raises:
        ValueError: If the architecture cannot merge tokens, or the shares do not fit the model or the budget.
    """
    if config.token_sparsity == AUTO:
        num_mergeable_tokens(model_config)  # tells where none can
    else:
        merged_tokens(config.token_sparsity, model_config, list(range(len(block_sizes(model_config)))))


def costs_with_tokens(model: SNPModel, merged: list[int], unit: str) -> SizeCosts:
    """What sizes of a model cost if its blocks merge so many tokens."""
    if not any(merged):
        return SizeCosts(model, unit)
    return SizeCosts(skeleton(type(model), _config(model, merged)), unit)


def choose_token_shares(
    model: SNPModel,
    costs_of: Callable[[list[int]], Costs],
    target: float,
    allocate: Callable[[Costs, float], Sizes],
    measure: Callable[[Sizes, float], float],
) -> list[float]:
    """The share of the patches to merge at which tokens and neurons together lose least, and what it is to be held to.

    Neurons alone are tried, tokens alone, and shares between the two. More tokens than those that fit the target
    without any neuron have nothing to pay for.

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
        `list[float]`: Of the shares that were tried the one that loses least; then what it is to be held to where the
        model will be reconstructed, as far as it fits: the share in the middle between it and that of tokens alone,
        the latter, and 0. The largest share alone, if nothing fits.
    """
    blocks = list(range(len(block_sizes(model.config))))
    num_patches = num_mergeable_tokens(model.config)
    losses: dict[float, float] = {}

    def costs_at(share: float) -> Costs | None:
        try:
            return costs_of(merged_tokens(share, model.config, blocks))
        except ValueError:  # the blocks are too few for it
            return None

    def is_enough(num_merged: int) -> bool:
        """Whether no neuron has to go; or the blocks cannot merge so many."""
        costs = costs_at(num_merged / num_patches)
        return costs is None or costs.total(costs.sizes) <= target

    def sizes_at(share: float) -> Sizes | None:
        costs = costs_at(share)
        if costs is None:
            return None
        sizes = allocate(costs, target)
        return sizes if costs.total(sizes) <= target else None

    def try_out(share: float) -> None:
        sizes = sizes_at(share)
        if sizes is not None:
            losses[share] = measure(sizes, share)

    def best() -> float:
        return min(losses, key=lambda share: (losses[share], -share))

    most = bisect.bisect_left(range(num_patches), True, key=is_enough) / num_patches
    shares = [*(STEP * step for step in range(math.ceil(most / STEP))), most]
    for share in shares:
        try_out(share)
    if not losses:
        return [max(share for share in shares if costs_at(share) is not None)]
    middle = best()
    for share in (middle - STEP / 2, middle + STEP / 2):
        if 0 < share < most:
            try_out(share)
    chosen = best()
    rivals: dict[tuple[int, ...], float] = {}  # by what merges: shares may differ by less than a token
    for share in (chosen, (chosen + most) / 2, most, 0.0):
        if sizes_at(share) is not None:
            rivals.setdefault(tuple(merged_tokens(share, model.config, blocks)), share)
    return list(rivals.values())


def _config(model: SNPModel, merged: list[int]) -> PretrainedConfig:
    """The config of the model, with blocks that merge so many tokens."""
    blocks = [
        {**block, "merged_tokens": count} for block, count in zip(block_sizes(model.config), merged, strict=True)
    ]
    return resized_config(model.config, blocks, stream_widths(model.config), refits=False)

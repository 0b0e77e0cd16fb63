"""Which heads and blocks go as a whole: the first step of every plan."""

import math
from collections.abc import Iterable

import torch
from transformers import PretrainedConfig

from ..calibration import CalibrationStatistics
from ..configuration import AUTO, SNPConfig
from ..methods import method_of
from ..models import SNPModel
from ..plan.sizes import block_shares, kept_size
from ..scoring import block_scores
from ..structure import block_sizes, block_stages, whole_parts


def fixed_head_counts(
    model_config: PretrainedConfig,
    statistics: CalibrationStatistics,
    config: SNPConfig,
    block_losses: list[float | None] | None = None,
) -> list[int]:
    """How many heads every block keeps, 0 for a block that goes, as far as the config says it.

    Of a number of blocks to drop those go that lose least by `block_losses`, those without a loss last; without them,
    those that change their stream least.

    Raises:
        ValueError: If the config does not fit the model, or the statistics lack what the scores of blocks need.
    """
    dropped = _dropped_blocks(model_config, statistics, config, block_losses)
    counts = kept_head_counts(config, model_config)
    return [0 if index in dropped else count for index, count in enumerate(counts)]


def choose_heads(
    model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig, counts: list[int]
) -> list[list[int]]:
    """The heads that stay.

    Args:
        model:
            The dense model in our architecture.
        statistics ([`CalibrationStatistics`]):
            Of this model.
        config ([`SNPConfig`]):
            Of which what head scores need is read.
        counts (`list[int]`):
            How many heads every block keeps.

    Returns:
        `list[list[int]]`: Per block the heads that stay, rising.

    Raises:
        ValueError: If the statistics lack what the scores need.
    """
    before = [block["num_attention_heads"] for block in block_sizes(model.config)]
    if all(count in (0, all_heads) for count, all_heads in zip(counts, before, strict=True)):
        return [list(range(count)) for count in counts]
    scores = method_of(config).score_heads(model, statistics, config)
    return [keep_highest(heads, count) for heads, count in zip(scores, counts, strict=True)]


def keep_highest(scores: torch.Tensor, count: int) -> list[int]:
    """The positions of the `count` highest of `scores`, rising; of equal scores the first stays."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def kept_head_counts(config: SNPConfig, model_config: PretrainedConfig) -> list[int]:
    """How many heads of every block stay, at least one; frozen blocks keep all, and so do all that a budget chooses.

    Raises:
        ValueError: If a list of shares does not fit the blocks of the model.
    """
    given = 0.0 if config.head_sparsity == AUTO else config.head_sparsity
    shares = block_shares("head_sparsity", given, block_stages(model_config))
    return [
        kept_size(block["num_attention_heads"], 0.0 if index in config.frozen_blocks else share, round_to=1)
        for index, (block, share) in enumerate(zip(block_sizes(model_config), shares, strict=True))
    ]


def check_dropped_blocks(config: SNPConfig, model_config: PretrainedConfig) -> None:
    """Tells whether the blocks that are to be dropped can be.

    Raises:
        ValueError: If there is no block of a number, or too few blocks would stay.
    """
    stages, dropped = block_stages(model_config), config.dropped_blocks
    if dropped == AUTO:
        return
    if isinstance(dropped, int):
        most = len(_droppable(range(len(stages)), stages, config.frozen_blocks))
        if dropped > most:
            raise ValueError(
                f"dropped_blocks is {dropped}, but only {most} of the {len(stages)} blocks can go: one of every stage "
                "stays, and so do frozen_blocks."
            )
        return
    for block in dropped:
        if block >= len(stages):
            raise ValueError(f"dropped_blocks has {block}, but the model has blocks 0 to {len(stages) - 1}.")
    for stage in set(stages):
        if stage not in {stages[block] for block in range(len(stages)) if block not in dropped}:
            where = f"stage {stage}" if len(set(stages)) > 1 else "the model"
            raise ValueError(f"dropped_blocks leaves no block of {where}. Leave at least one out of the list.")


def hint_of_whole_parts(config: SNPConfig, model_config: PretrainedConfig) -> str:
    """What to add where a budget cannot be reached: which parts stay whole, and what may go beside the others."""
    whole = whole_parts(model_config)
    if not whole:
        return ""
    free = [f"{name}={AUTO!r}" for name in ("head_sparsity", "dropped_blocks") if getattr(config, name) != AUTO]
    remedy = f" Let heads and blocks go as a whole with {' and '.join(free)}." if free else ""
    return f" What {' and '.join(whole)} would remove stays in this model in any case.{remedy}"


def _dropped_blocks(
    model_config: PretrainedConfig,
    statistics: CalibrationStatistics,
    config: SNPConfig,
    block_losses: list[float | None] | None,
) -> list[int]:
    check_dropped_blocks(config, model_config)
    if isinstance(config.dropped_blocks, list):
        return config.dropped_blocks
    if config.dropped_blocks in (0, AUTO):
        return []
    if block_losses is None:
        scores = block_scores(statistics)
    else:
        scores = torch.tensor([math.inf if loss is None else loss for loss in block_losses])
    order = torch.sort(scores, stable=True).indices.tolist()
    return _droppable(order, block_stages(model_config), config.frozen_blocks)[: config.dropped_blocks]


def _droppable(order: Iterable[int], stages: list[int], frozen: list[int]) -> list[int]:
    """The blocks, in that order, that can go one after the other so that every stage keeps one."""
    remaining_stages, droppable = list(stages), []
    for block in order:
        if block not in frozen and remaining_stages.count(stages[block]) > 1:
            remaining_stages.remove(stages[block])
            droppable.append(block)
    return droppable

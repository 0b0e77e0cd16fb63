"""Sizes of the parts that can be pruned, from the shares that a user removes."""

import math
from typing import Any

from transformers import PretrainedConfig

from ..configuration import SNPConfig
from ..structure import block_sizes, block_stages, stream_widths


# The shares that are given block by block, with the size that each makes smaller.
PART_SIZES = {"qk_sparsity": "qk_head_dim", "v_sparsity": "v_head_dim", "mlp_sparsity": "intermediate_size"}
WIDTH = "hidden_sparsity"
# The number of heads of a block, and whether the block is there at all, 1 or 0.
HEADS = "head_sparsity"
BLOCK = "dropped_blocks"

# What a size is of: the share that makes it smaller, and the position of its block or residual stream.
Part = tuple[str, int]
Sizes = dict[Part, int]


def dense_sizes(model_config: PretrainedConfig) -> Sizes:
    """The sizes of a model before pruning."""
    sizes: Sizes = {(WIDTH, index): width for index, width in enumerate(stream_widths(model_config))}
    for index, block in enumerate(block_sizes(model_config)):
        sizes |= {(part, index): block[name] for part, name in PART_SIZES.items()}
    return sizes


def sizes_of_shares(config: SNPConfig, model_config: PretrainedConfig) -> Sizes:
    """The sizes that stay when the shares of `config` are removed.

    Raises:
        ValueError: If a list of shares does not fit the blocks or stages of the model.
    """
    stages = block_stages(model_config)
    shares = {part: block_shares(part, getattr(config, part), stages) for part in PART_SIZES}
    shares[WIDTH] = _stream_shares(config.hidden_sparsity, max(stages) + 1)
    return {
        (part, index): kept_size(size, shares[part][index], config.round_to or 1)
        for (part, index), size in dense_sizes(model_config).items()
    }


def block_shares(name: str, shares: float | list, stages: list[int]) -> list[float]:
    """One share per block, in execution order.

    Args:
        name (`str`):
            Of the field of [`SNPConfig`].
        shares (`float`, `list[float]` or `list[list[float]]`):
            One share for all blocks, one per block, or lists of shares nested by stage.
        stages (`list[int]`):
            The stage of every block.

    Raises:
        ValueError: If a list has another length.
    """
    if not isinstance(shares, list):
        return [shares] * len(stages)
    if any(isinstance(share, list) for share in shares):
        depths = [stages.count(stage) for stage in range(max(stages) + 1)]
        given = [len(share) for share in shares]
        if given != depths:
            raise ValueError(f"{name} has {given} shares by stage, but the model has {depths} blocks.")
        return [share for stage in shares for share in stage]
    if len(shares) != len(stages):
        raise ValueError(f"{name} has {len(shares)} shares, but the model has {len(stages)} blocks.")
    return shares


def _stream_shares(shares: Any, num_streams: int) -> list[float]:
    if not isinstance(shares, list):
        return [shares] * num_streams
    if len(shares) != num_streams:
        streams = "the model has one width" if num_streams == 1 else f"the model has {num_streams} stages"
        raise ValueError(f"hidden_sparsity has {len(shares)} shares, but {streams}.")
    return shares


def kept_size(size: int, share: float, round_to: int) -> int:
    """`size * (1 - share)` rounded half up to a multiple of `round_to`, at least one such multiple, at most `size`."""
    if share == 0:
        return size
    # 15 * (1 - 0.9) is a little less than 1.5 in floating point.
    multiples = math.floor(round(size * (1 - share) / round_to, 9) + 0.5)
    return min(size, max(1, multiples) * round_to)

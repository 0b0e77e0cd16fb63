"""Sizes of the parts that can be pruned, from the shares that a user removes."""

import math
from enum import Enum
from typing import Any, TypeAlias

from transformers import PretrainedConfig

from ..configuration import SNPConfig
from ..structure import block_sizes, block_stages, query_key_step, stream_widths


class Part(Enum):
    """What a size is of.

    Attributes:
        size_name (`str`): Its size in the config of a model.
        share_name (`str`): The field of [`SNPConfig`] that makes it smaller.
    """

    QUERY_KEY = ("qk_head_dim", "qk_sparsity")
    VALUE = ("v_head_dim", "v_sparsity")
    MLP = ("intermediate_size", "mlp_sparsity")
    WIDTH = ("hidden_size", "hidden_sparsity")
    HEADS = ("num_attention_heads", "head_sparsity")
    BLOCK = ("num_hidden_layers", "dropped_blocks")  # whether the block is there at all, 1 or 0

    def __init__(self, size_name: str, share_name: str):
        self.size_name = size_name
        self.share_name = share_name


# The parts of a block that get smaller neuron by neuron.
NEURON_PARTS = (Part.QUERY_KEY, Part.VALUE, Part.MLP)

# One part of one block, or one residual stream, by its position.
Slot: TypeAlias = tuple[Part, int]
Sizes: TypeAlias = dict[Slot, int]


def dense_sizes(model_config: PretrainedConfig) -> Sizes:
    """The sizes of a model before pruning."""
    sizes: Sizes = {(Part.WIDTH, index): width for index, width in enumerate(stream_widths(model_config))}
    for index, block in enumerate(block_sizes(model_config)):
        sizes |= {(part, index): block[part.size_name] for part in NEURON_PARTS}
    return sizes


def sizes_of_shares(config: SNPConfig, model_config: PretrainedConfig) -> Sizes:
    """The sizes that stay when the shares of `config` are removed.

    Raises:
        ValueError: If a list of shares does not fit the blocks or stages of the model.
    """
    stages = block_stages(model_config)
    shares = {part: block_shares(part.share_name, getattr(config, part.share_name), stages) for part in NEURON_PARTS}
    shares[Part.WIDTH] = _stream_shares(config.hidden_sparsity, max(stages) + 1)
    step = query_key_step(model_config)
    return {
        (part, index): kept_size(
            size,
            shares[part][index],
            math.lcm(config.round_to or 1, step if part is Part.QUERY_KEY else 1),
        )
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
        has = "1 share, but the model has" if len(shares) == 1 else f"{len(shares)} shares, but the model has"
        raise ValueError(f"{name} has {has} {len(stages)} block{'s' * (len(stages) > 1)}.")
    return shares


def _stream_shares(shares: Any, num_streams: int) -> list[float]:
    if not isinstance(shares, list):
        return [shares] * num_streams
    if len(shares) != num_streams:
        streams = "the model has one width" if num_streams == 1 else f"the model has {num_streams} stages"
        raise ValueError(f"hidden_sparsity has {len(shares)} share{'s' * (len(shares) != 1)}, but {streams}.")
    return shares


def kept_size(size: int, share: float, round_to: int) -> int:
    """`size * (1 - share)` rounded half up to a multiple of `round_to`, at least one such multiple, at most `size`."""
    if share == 0:
        return size
    # 15 * (1 - 0.9) is a little less than 1.5 in floating point.
    multiples = math.floor(round(size * (1 - share) / round_to, 9) + 0.5)
    return min(size, max(1, multiples) * round_to)

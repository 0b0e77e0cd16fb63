"""The parts of a model that pruning touches, by the names of their modules and weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of what a config gives as one number, for squares, or as two."""
    return tuple(size) if isinstance(size, Sequence) else (size, size)


@dataclass(frozen=True)
class Block:
    """One transformer block.

    Attributes:
        name (`str`): Of its module, which has `layernorm_before`, `attention`, `layernorm_after` and `mlp`.
        module (`nn.Module`): The module.
        stream (`int`): The residual stream that it reads and writes.
        num_maps (`int`): Attention maps per head for one image: 1, or the number of windows.
        map_tokens (`int`): Tokens per attention map.
    """

    name: str
    module: nn.Module
    stream: int
    num_maps: int
    map_tokens: int


@dataclass(frozen=True)
class Norm:
    """A norm with the layers behind it.

    Attributes:
        name (`str`): Of its module.
        readers (`list[str]`): The linear layers that read it; none where its output is a feature map.
        repeats (`int`): How many tokens of the stream lie side by side in one row of its input (patch merging: 4).
        pads (`bool`): Whether zeros are put beside its output to fill windows.
        num_tokens (`int` or `None`): How many tokens, the first ones, the readers get; `None` for all.
        averages (`bool`): Whether they get the mean of these tokens.
    """

    name: str
    readers: list[str]
    repeats: int = 1
    pads: bool = False
    num_tokens: int | None = None
    averages: bool = False

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """From its output `[batch, tokens, channels]` to the rows that the readers get."""
        states = states[:, : self.num_tokens]
        return states.mean(dim=1, keepdim=True) if self.averages else states


@dataclass(frozen=True)
class Stream:
    """A residual stream: everything that is added into it is pruned with one index set, or one rotation.

    Attributes:
        width (`int`): Its channels.
        writers (`list[str]`): Layers whose outputs are added into it.
        vectors (`list[str]`): Weights that are themselves added into it; their last dimension is the stream's.
        norms (`list[Norm]`): The norms over it.
        scales (`list[str]`): Layers that act on each of its channels alone (the norm behind Swin's patch embedding).
    """

    width: int
    writers: list[str]
    vectors: list[str]
    norms: list[Norm]
    scales: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Structure:
    """All of a model that pruning touches.

    Attributes:
        blocks (`list[Block]`): In execution order.
        streams (`list[Stream]`): In execution order.
        linear_rows (`dict[str, int]`): For every linear layer and convolution, how often it is applied for one image
            of the configured size.
    """

    blocks: list[Block]
    streams: list[Stream]
    linear_rows: dict[str, int]

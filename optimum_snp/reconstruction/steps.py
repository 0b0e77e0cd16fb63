"""A network as steps that each take a residual stream on: its blocks, and in Swin the patch mergings between them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..models import SNPModel
from ..structure import Structure, input_shape
from .groups import Groups


@dataclass(frozen=True)
class Step:
    """A module that takes a stream on, and what it is called with beside the stream.

    Attributes:
        module (`nn.Module`): A block, or a patch merging.
        block (`int` or `None`): The position of the block; `None` for a patch merging.
        arguments (`tuple`), options (`dict`): Of its call, such as the windows of a Swin; the same for all images.
        merges_tokens (`bool`): Whether there are blocks in the network that merge tokens; all of them are then called
            with the groups of tokens, and give those behind them.
    """

    module: nn.Module
    block: int | None
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    merges_tokens: bool = False

    def __call__(self, stream: torch.Tensor, groups: Groups | None = None) -> tuple[torch.Tensor, Groups | None]:
        """The stream `[images, tokens, channels]` behind the step, and its groups of tokens if any were merged."""
        if not self.merges_tokens:
            return first(self.module(stream, *self.arguments, **self.options)), None
        *others, _sizes, _places = self.arguments
        sizes, places = (None, None) if groups is None else (groups.sizes, groups.places)
        stream, _, sizes, places = self.module(stream, *others, sizes, places)
        return stream, None if places is None else Groups(sizes, places)


def first(output: Any) -> torch.Tensor:
    """The stream among what a module gives: alone, or before other things."""
    return output if isinstance(output, torch.Tensor) else output[0]


class _EndOfPassError(Exception):
    """Ends a forward pass whose rest nobody needs."""


def record_steps(model: SNPModel, structure: Structure) -> list[Step]:
    """The steps of a model in execution order, as a forward pass of an image of the configured size calls them."""
    shape = (1, *input_shape(model.config))
    positions: dict[nn.Module, int | None] = {block.module: index for index, block in enumerate(structure.blocks)}
    for stream in structure.streams:
        if stream.merging is not None:
            positions[model.get_submodule(stream.merging)] = None
    steps: list[Step] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        steps.append(Step(module, positions[module], arguments[1:], options, structure.merges_tokens))

    with _hooks(module.register_forward_pre_hook(keep, with_kwargs=True) for module in positions):
        model(torch.zeros(shape, device=model.device))
    return steps


def inputs_of(layers: Sequence[nn.Module], run: Callable[[], Any], *, to_end: bool = False) -> list[torch.Tensor]:
    """What `run()` feeds to these layers; it reaches them in this order, and ends at the last unless told to go on."""
    found: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found[module] = inputs[0]
        if module is layers[-1] and not to_end:
            raise _EndOfPassError

    with _hooks(layer.register_forward_pre_hook(keep) for layer in layers), contextlib.suppress(_EndOfPassError):
        run()
    return [found[layer] for layer in layers]


def outputs_of(layers: Sequence[nn.Module], run: Callable[[], Any]) -> list[torch.Tensor]:
    """What these layers put out while `run()` runs, to its end."""
    found: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found[module] = output

    with _hooks(layer.register_forward_hook(keep) for layer in layers):
        run()
    return [found[layer] for layer in layers]


@contextlib.contextmanager
def _hooks(handles: Iterator[Any]) -> Iterator[None]:
    opened = list(handles)
    try:
        yield
    finally:
        for handle in opened:
            handle.remove()

"""A network as steps that each take a residual stream on: its blocks, and in Swin the patch mergings between them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..models import SNPModel
from ..structure import Block, Norm, Structure


# How the layers of a block are called by what they do.
_LAYER_NAMES = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "output": "attention.o_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def layer_of(block: Block, role: str) -> nn.Module | None:
    """The layer of a block that does something: `query`, `key`, `value`, `output`, `up`, `down`."""
    return block.module.get_submodule(_LAYER_NAMES[role])


def name_of(block: Block, role: str) -> str:
    """The name of that layer in the network."""
    return f"{block.name}.{_LAYER_NAMES[role]}"


@dataclass(frozen=True)
class Step:
    """A module that takes a stream on, and what it is called with beside the stream.

    Attributes:
        module (`nn.Module`): A block, or a patch merging.
        block (`int` or `None`): Which of the blocks it is; `None` for a patch merging.
        arguments (`tuple`), options (`dict`): Of its call, such as the windows of a Swin; the same for all images.
    """

    module: nn.Module
    block: int | None
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self, stream: torch.Tensor) -> torch.Tensor:
        """The stream `[images, tokens, channels]` behind the step."""
        output = self.module(stream, *self.arguments, **self.options)
        return output if isinstance(output, torch.Tensor) else output[0]


class _Seen(Exception):
    """Ends a forward pass whose rest nobody needs."""


def record_steps(model: SNPModel, structure: Structure, pixel_values: torch.Tensor) -> list[Step]:
    """The steps of a model in execution order, as one forward pass calls them."""
    modules = {id(block.module): index for index, block in enumerate(structure.blocks)}
    mergings = [norm.name.rpartition(".")[0] for stream in structure.streams for norm in stream.norms if norm.repeats > 1]
    modules |= dict.fromkeys((id(model.get_submodule(name)) for name in mergings))
    steps = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        steps.append(Step(module, modules[id(module)], arguments[1:], options))

    watched = [module for module in model.modules() if id(module) in modules]
    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in watched]
    try:
        model(pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return steps


def first_stream(model: SNPModel, structure: Structure, pixel_values: torch.Tensor) -> torch.Tensor:
    """What the first block of a model gets."""
    (found,) = inputs_of([structure.blocks[0].module], lambda: model(pixel_values))
    return found


def inputs_of(layers: Sequence[nn.Module], run: Any) -> list[torch.Tensor]:
    """What `run()` feeds to layers, which it reaches in this order; it ends at the last of them."""
    with _watching(layers) as found, contextlib.suppress(_Seen):
        run()
    return [found[layer] for layer in layers]


@contextlib.contextmanager
def _watching(layers: Sequence[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    found: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found[module] = inputs[0]
        if module is layers[-1]:
            raise _Seen

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def norms_by_reader(structure: Structure) -> dict[str, Norm]:
    """For the name of every layer that reads a norm, that norm."""
    return {reader: norm for stream in structure.streams for norm in stream.norms for reader in norm.readers}

"""How strongly the model's output answers to a small change inside it: what budgets weigh the losses of layers by.

For outputs `y` (the logits, up to what softmax ignores, or features) and a place `z` in the network with the Jacobian
`J`, a change `d` of `z` moves the outputs by `J d`. For a random vector `v` of independent signs, `g = J^T v` is one
backward pass, and `(g . d)^2` is `|J d|^2` in the mean over `v`. So sums of `g g^T`, multiplied with the second
moments of the changes that pruning makes, say by how much it moves the outputs. Changes of different tokens count as
independent.

Added to the sums of one block (float64, over all tokens of the images):

    sensitivity_images     []              images summed over
    query_sensitivity      [heads, d, d]   sum g g^T at the queries, turned by rotary positions where there are some
    attention_sensitivity  []              sum |g|^2 at what the attention adds to the residual stream
    mlp_sensitivity        []              the same of the MLP
    removal_change         []              sum over images of (g . d)^2 for all that the block adds, `d = out - in`,
                                           and the gradient behind it; tokens count together

and to those of one norm `sensitivity_images` and `sensitivity` [], sum |g|^2 at the rows that its readers get of what
the norm puts out without its own scale and shift.

Source: our choice; the estimate of the trace is Hutchinson's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from ..data import predicts_one_class
from ..models import SNPModel
from ..structure import Structure, architecture_of
from .statistics import CalibrationStatistics


# Images of one backward pass: its memory grows with them, its speed hardly.
CHUNK_SIZE = 4


def start_sensitivities(structure: Structure, statistics: CalibrationStatistics) -> None:
    """Sets the sums to zero, on every process, whether it will have images or not."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64)

    for block, sums in zip(structure.blocks, statistics.blocks, strict=True):
        sums["sensitivity_images"], sums["attention_sensitivity"], sums["mlp_sensitivity"] = zeros(), zeros(), zeros()
        sums["removal_change"] = zeros()
        sums["query_sensitivity"] = zeros(block.num_attention_heads, block.qk_head_dim, block.qk_head_dim)
    for sums in statistics.norms.values():
        sums["sensitivity_images"], sums["sensitivity"] = zeros(), zeros()


def add_sensitivities(
    structure: Structure, model: SNPModel, statistics: CalibrationStatistics, pixel_values: torch.Tensor, seed: int
) -> None:
    """Adds the sensitivities of one batch of images to `statistics`, by a forward and a backward pass.

    Args:
        structure ([`Structure`]):
            Of the model.
        model:
            In eval mode.
        statistics ([`CalibrationStatistics`]):
            With second moments, and what [`start_sensitivities`] set.
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
            On the device of the model.
        seed (`int`):
            Of the signs; the same for the same batch on any process.
    """
    generator = torch.Generator().manual_seed(seed)
    for chunk in pixel_values.split(CHUNK_SIZE):
        with torch.enable_grad(), frozen(model), _changes(structure, model) as (states, added):
            outputs = counted_outputs(model(chunk.clone().requires_grad_()), model.config)
            signs = [torch.randint(0, 2, output.shape, generator=generator) * 2 - 1 for output in outputs]
            product = sum((output * sign.to(output)).sum() for output, sign in zip(outputs, signs, strict=True))
            # The norm of several feature maps runs several times.
            runs = [(name, state) for name, of_layer in states.items() for state in of_layer]
            gradients = torch.autograd.grad(product, [state for _, state in runs], allow_unused=True)
        found: dict[str, list[torch.Tensor]] = {name: [] for name in states}
        for (name, state), gradient in zip(runs, gradients, strict=True):
            found[name].append(torch.zeros_like(state) if gradient is None else gradient)
        _add(structure, model, statistics, found, added)


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Weights get no gradients meanwhile, which saves half of the backward pass."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _changes(
    structure: Structure, model: nn.Module
) -> Iterator[tuple[dict[str, list[torch.Tensor]], dict[str, torch.Tensor]]]:
    """While open, a forward pass fills two dicts.

    One gets the outputs of all layers whose changes are weighed, of every run of theirs, by their names; the other
    what blocks add to their streams.
    """
    states: dict[str, list[torch.Tensor]] = {}
    added: dict[str, torch.Tensor] = {}
    names = [norm.name for stream in structure.streams for norm in stream.norms]
    for block in structure.blocks:
        names += dict.fromkeys((block.score_inputs[0], block.output, block.down, block.mlp_end))  # each once

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: states.setdefault(name, []).append(output)

    def keep_added(name: str) -> Any:
        return lambda _module, inputs, outputs: added.__setitem__(name, (outputs[0] - inputs[0]).detach())

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    handles += [block.module.register_forward_hook(keep_added(block.name)) for block in structure.blocks]
    try:
        yield states, added
    finally:
        for handle in handles:
            handle.remove()


def counted_outputs(output: ModelOutput, config: PretrainedConfig) -> list[torch.Tensor]:
    """What counts of the outputs: logits up to what softmax ignores, else features."""
    if "logits" in output:
        # What all logits share, softmax ignores; nothing else does: one label alone, several at once, features.
        shared = output.logits.mean(dim=-1, keepdim=True) if predicts_one_class(config) else 0
        return [output.logits - shared]
    return architecture_of(config).features(output, config)


@torch.no_grad()
def _add(
    structure: Structure,
    model: nn.Module,
    statistics: CalibrationStatistics,
    gradients: dict[str, list[torch.Tensor]],
    added: dict[str, torch.Tensor],
) -> None:
    num_images = len(next(iter(added.values())))
    for block, sums in zip(structure.blocks, statistics.blocks, strict=True):
        queries, _ = block.score_inputs
        names = queries, block.output, block.down, block.mlp_end
        (query,), (output,), (down,), (end,) = (gradients[name] for name in names)
        queries = query.float().flatten(0, 1)
        by_head = queries.unflatten(-1, (block.num_attention_heads, -1)).transpose(0, 1)  # [heads, tokens, head_dim]
        sums["sensitivity_images"] += num_images
        sums["query_sensitivity"] += (by_head.mT @ by_head).cpu().double()
        sums["attention_sensitivity"] += _energy(output)
        sums["mlp_sensitivity"] += _energy(down)
        sums["removal_change"] += _energy((end * added[block.name]).flatten(1).sum(dim=1))
    for stream in structure.streams:
        for norm in stream.norms:
            sums = statistics.norms[norm.name]
            sums["sensitivity_images"] += num_images
            for gradient in gradients.get(norm.name, []):  # a Swin as a backbone does not run its final norm
                if norm.normalizes:
                    gradient = gradient * model.get_submodule(norm.name).weight
                sums["sensitivity"] += _energy(norm.read_gradient(gradient))


def _energy(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.float().square().sum().cpu().double()

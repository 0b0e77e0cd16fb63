"""Reshaping by selection: the weights of the kept neurons, nothing else, in a smaller model of the same architecture.

Source: SNP (arXiv 2404.11630). Query and key neurons go in pairs, value neurons with the columns of the output
projection that read them, MLP neurons with the columns of the second layer, and channels of the residual stream with
the rows of all that writes and the columns of all that reads the stream. The scale of the scores stays that of the
dense model. But for the width, the result equals the dense model with the other neurons set to zero; a
layer norm over fewer channels is another function.
"""

import torch
from torch import nn

from ..models import SNPModel
from ..plan import BlockPlan, PruningPlan
from ..structure import Block, Norm, Stream, describe


Weights = dict[str, torch.Tensor]


def select_neurons(model: SNPModel, plan: PruningPlan) -> Weights:
    """The weights of the kept neurons.

    Args:
        model:
            What is left of the dense model without the heads and blocks that go as a whole; it is not changed.
        plan ([`PruningPlan`]):
            Made for the dense model.

    Returns:
        `dict[str, torch.Tensor]`: All weights of the pruned model.
    """
    structure = describe(model)
    weights = dict(model.state_dict())
    for block, block_plan in zip(structure.blocks, plan.kept_blocks, strict=True):
        select_block(weights, block, block_plan)
    for stream, width in zip(structure.streams, plan.widths, strict=True):
        _select_width(weights, stream, width.kept)
    return weights


def select_block(weights: Weights, block: Block, plan: BlockPlan) -> None:
    """Replaces the weights of a block by those of its kept neurons."""
    select_queries_and_keys(weights, block, plan)
    value = rows_of_heads(plan.value, plan.before["v_head_dim"])
    keep_rows(weights, block.value, value)
    keep_columns(weights, block.output, value)
    select_mlp(weights, block, plan.mlp)


def select_queries_and_keys(weights: Weights, block: Block, plan: BlockPlan) -> None:
    """Replaces the weights of a block's queries and keys by those of the kept neurons."""
    rows = rows_of_heads(plan.query_key, plan.before["qk_head_dim"])
    keep_rows(weights, block.query, rows)
    keep_rows(weights, block.key, rows)
    if block.rotary_pairs is not None:
        pairs = weights[block.rotary_pairs]
        firsts = [neurons[: len(neurons) // 2] for neurons in plan.query_key]  # the others are their partners
        weights[block.rotary_pairs] = pairs.gather(1, torch.tensor(firsts, device=pairs.device))


def select_mlp(weights: Weights, block: Block, kept: list[int]) -> None:
    """Replaces the weights of a block's MLP by those of its kept neurons."""
    for layer in block.mlp_inputs:
        keep_rows(weights, layer, kept)
    keep_columns(weights, block.down, kept)


def weight_of(model: nn.Module, layer: str) -> torch.Tensor:
    """The weight of a linear layer, `[outputs, inputs]`: not a copy, but apart from its gradient."""
    return model.get_submodule(layer).weight.detach()


def rows_of_heads(kept: list[list[int]], head_dim: int) -> list[int]:
    """Rows of the whole projection from the kept neurons of each head."""
    return [head * head_dim + neuron for head, neurons in enumerate(kept) for neuron in neurons]


def keep_rows(weights: Weights, name: str, kept: list[int]) -> None:
    for part in ("weight", "bias"):
        if f"{name}.{part}" in weights:  # queries, keys and values may come without bias
            weights[f"{name}.{part}"] = weights[f"{name}.{part}"][kept]


def keep_columns(weights: Weights, name: str, kept: list[int]) -> None:
    weights[f"{name}.weight"] = weights[f"{name}.weight"][:, kept]


def keep_inputs(weights: Weights, norm: Norm, kept: list[int], width: int) -> None:
    """Replaces the norm and what reads it by those of the kept channels of a stream of `width` channels."""
    keep_rows(weights, norm.name, repeat_channels(kept, width, norm.repeats))
    for reader in norm.readers:
        keep_columns(weights, reader, repeat_channels(kept, width, norm.chunks))


def repeat_channels(kept: list[int], width: int, times: int) -> list[int]:
    """The kept channels of `times` vectors of `width` channels that lie side by side."""
    return [vector * width + channel for vector in range(times) for channel in kept]


def _select_width(weights: Weights, stream: Stream, kept: list[int]) -> None:
    for layer in (*stream.writers, *stream.scales):
        keep_rows(weights, layer, kept)
    for vector in stream.vectors:
        weights[vector] = weights[vector][..., kept]
    for norm in stream.norms:
        keep_inputs(weights, norm, kept, stream.width)

"""Reshaping by selection: the weights of the kept neurons, nothing else, in a smaller model of the same architecture.

Source: SNP (arXiv 2404.11630). Query and key neurons go in pairs, value neurons with the columns of the output
projection that read them, MLP neurons with the columns of the second layer, and channels of the residual stream with
the rows of all that writes and the columns of all that reads the stream. The scale of the scores stays that of the
dense model. But for the width, the result equals the dense model with the other neurons set to zero; a
layer norm over fewer channels is another function.
"""

import torch

from ..models import SNPModel
from ..planning.plan import BlockPlan, PruningPlan
from ..structure import Norm, Stream, describe


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
        select_block(weights, block.name, block_plan)
    for stream, width in zip(structure.streams, plan.widths, strict=True):
        _select_width(weights, stream, width.kept)
    return weights


def select_block(weights: Weights, name: str, block: BlockPlan) -> None:
    """Replaces the weights of the block `name` by those of its kept neurons."""
    query_key = rows_of_heads(block.query_key, block.before["qk_head_dim"])
    value = rows_of_heads(block.value, block.before["v_head_dim"])
    keep_rows(weights, f"{name}.attention.q_proj", query_key)
    keep_rows(weights, f"{name}.attention.k_proj", query_key)
    keep_rows(weights, f"{name}.attention.v_proj", value)
    keep_columns(weights, f"{name}.attention.o_proj", value)
    keep_rows(weights, f"{name}.mlp.fc1", block.mlp)
    keep_columns(weights, f"{name}.mlp.fc2", block.mlp)


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
    repeated = [repeat * width + channel for repeat in range(norm.repeats) for channel in kept]
    keep_rows(weights, norm.name, repeated)
    for reader in norm.readers:
        keep_columns(weights, reader, repeated)


def _select_width(weights: Weights, stream: Stream, kept: list[int]) -> None:
    for layer in (*stream.writers, *stream.scales):
        keep_rows(weights, layer, kept)
    for vector in stream.vectors:
        weights[vector] = weights[vector][..., kept]
    for norm in stream.norms:
        keep_inputs(weights, norm, kept, stream.width)

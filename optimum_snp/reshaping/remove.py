"""Whole heads and whole blocks go first; the other parts are then pruned on what is left, as on a dense model.

A head goes with its queries, keys and values, the columns of the output layer that read it and, in Swin, its column of
the relative position bias. The closed-form methods refit the output layer to the heads that stay. A block goes without
trace: the stream passes by where it was, and in Swin the windows of the other blocks stay shifted as they were.

Source: our choice.
"""

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums
from ..calibration.statistics import sums_of_heads
from ..models import SNPModel, build_like
from ..structure import Block, Structure, block_sizes, describe, resized_config, stream_widths
from ..structure.costs import skeleton
from .refit import dense_layer, refit_reader
from .select import Weights, keep_columns, keep_rows


def remove(
    model: SNPModel, heads: list[list[int]], statistics: CalibrationStatistics | None = None, *, refits: bool
) -> tuple[SNPModel, CalibrationStatistics | None]:
    """Builds the model without some of its heads and blocks.

    Args:
        model:
            The dense model in our architecture; it is not changed.
        heads (`list[list[int]]`):
            Per block the heads that stay, rising; none if the block is dropped.
        statistics ([`CalibrationStatistics`], *optional*):
            Of the dense model; with second moments if it `refits`.
        refits (`bool`):
            Whether the output layers are refitted to the heads that stay.

    Returns:
        `tuple`: The model, and the dense model's statistics of the parts that are left, named as in the new model.
        Both are what was given if nothing goes.
    """
    dense_blocks = block_sizes(model.config)
    if all(len(kept) == block["num_attention_heads"] for kept, block in zip(heads, dense_blocks, strict=True)):
        return model, statistics
    rest = [
        {**block, "num_attention_heads": len(kept)} if kept else None
        for block, kept in zip(dense_blocks, heads, strict=True)
    ]
    config = resized_config(model.config, rest, stream_widths(model.config), refits=refits)
    structure = describe(model)
    weights = dict(model.state_dict())
    for index, block in enumerate(structure.blocks):
        if rest[index] is not None and rest[index] != dense_blocks[index]:
            _remove_heads(weights, block, heads[index], statistics.blocks[index] if refits else None)
    names = _new_names(structure, heads, describe(skeleton(type(model), config)))
    pruned = build_like(model, type(model), config, _renamed(weights, names))
    if statistics is None:
        return pruned, None
    blocks = [
        sums_of_heads(sums, kept, _neurons(kept, block["v_head_dim"]))
        for sums, kept, block in zip(statistics.blocks, heads, dense_blocks, strict=True)
        if kept
    ]
    return pruned, CalibrationStatistics(blocks, statistics.num_images, norms=_renamed(statistics.norms, names))


def requires_grad_of_rest(model: SNPModel, heads: list[list[int]], rest: SNPModel) -> dict[str, bool]:
    """Whether the weights of what [`remove`] left of `model` are trained, by their names there."""
    requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return _renamed(requires_grad, _new_names(describe(model), heads, describe(rest)))


def _remove_heads(weights: Weights, block: Block, kept: list[int], sums: Sums | None) -> None:
    query_key, value = (_neurons(kept, size) for size in (block.qk_head_dim, block.v_head_dim))
    keep_rows(weights, block.query, query_key)
    keep_rows(weights, block.key, query_key)
    keep_rows(weights, block.value, value)
    for parameter, dimension in block.per_head.items():
        heads = torch.tensor(kept, device=weights[parameter].device)
        weights[parameter] = weights[parameter].index_select(dimension, heads)
    if block.rotary_pairs is not None:
        weights[block.rotary_pairs] = weights[block.rotary_pairs][kept]
    if sums is None:
        keep_columns(weights, block.output, value)
    else:
        dense = (tensor.detach().cpu().double() for tensor in dense_layer(weights, block.output))
        refit_reader(weights, block.output, *dense, sums, "context_", value)


def _neurons(heads: list[int], head_dim: int) -> list[int]:
    return [head * head_dim + neuron for head in heads for neuron in range(head_dim)]


def _new_names(structure: Structure, heads: list[list[int]], rest: Structure) -> dict[str, str | None]:
    """For the module of every block its name among those that are left; `None` for one that is dropped."""
    left = iter(rest.blocks)
    return {block.name: next(left).name if kept else None for block, kept in zip(structure.blocks, heads, strict=True)}


def _renamed(values: dict, names: dict[str, str | None]) -> dict:
    """What is kept by the name of a module or weight, under its new name, without that of dropped blocks."""
    renamed = {}
    for name, value in values.items():
        block = next((block for block in names if name.startswith(f"{block}.")), None)
        if block is None:
            renamed[name] = value
        elif names[block] is not None:
            renamed[names[block] + name[len(block) :]] = value
    return renamed

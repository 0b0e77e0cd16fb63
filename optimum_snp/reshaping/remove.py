"""Whole heads and whole blocks go first; the other parts are then pruned on what is left, as on a dense model.

A head goes with its queries, keys and values, the columns of the output layer that read it and, in Swin, its column of
the relative position bias. The closed-form methods refit the output layer to the heads that stay. A block goes without
trace: the stream passes by where it was, and in Swin the windows of the other blocks stay shifted as they were.

Source: our choice.
"""

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums
from ..calibration.statistics import sums_of_heads
from ..models import SNPModel, build_like
from ..planning.costs import skeleton
from ..structure import Structure, block_sizes, describe, resized_config, stream_widths
from .refit import refit_reader
from .select import Weights, keep_columns, keep_rows


def remove(
    model: SNPModel, heads: list[list[int]], method: str, statistics: CalibrationStatistics | None = None
) -> tuple[SNPModel, CalibrationStatistics | None]:
    """Builds the model without some of its heads and blocks.

    Args:
        model:
            The dense model in our architecture; it is not changed.
        heads (`list[list[int]]`):
            Per block the heads that stay, rising; none if the block is dropped.
        method (`str`):
            Of [`SNPConfig`].
        statistics ([`CalibrationStatistics`], *optional*):
            Of the dense model, with second moments unless the method is `"snp"`.

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
    config = resized_config(model.config, rest, stream_widths(model.config), method=method)
    structure = describe(model)
    weights = dict(model.state_dict())
    for index, block in enumerate(structure.blocks):
        if rest[index] is not None and rest[index] != dense_blocks[index]:
            sums = None if method == "snp" else statistics.blocks[index]
            _remove_heads(weights, block.name, dense_blocks[index], heads[index], sums)
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


def _remove_heads(weights: Weights, name: str, before: dict, kept: list[int], sums: Sums | None) -> None:
    attention = f"{name}.attention"
    query_key, value = (_neurons(kept, before[size]) for size in ("qk_head_dim", "v_head_dim"))
    keep_rows(weights, f"{attention}.q_proj", query_key)
    keep_rows(weights, f"{attention}.k_proj", query_key)
    keep_rows(weights, f"{attention}.v_proj", value)
    bias_table = f"{attention}.relative_position_bias_table"
    if bias_table in weights:
        weights[bias_table] = weights[bias_table][:, kept]
    if sums is None:
        keep_columns(weights, f"{attention}.o_proj", value)
    else:
        dense = (weights[f"{attention}.o_proj.{part}"].detach().cpu().double() for part in ("weight", "bias"))
        refit_reader(weights, f"{attention}.o_proj", *dense, sums, "context_", value)


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

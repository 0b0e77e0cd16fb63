"""Measuring the latency of whole blocks of an architecture, with random weights, on a grid of their sizes.

The grid is coarse and times are linear in between: the plan that comes of it is measured whole. For ONNX Runtime
and OpenVINO, where every point of the grid has to be exported and times are near proportional to sizes, it is coarser
still. Where tokens merge, every shape is measured at some numbers of tokens, too, and so is the merging itself.
`torch.compile` would take minutes for all the sizes; it gains much the same on all, so its table is that of eager
PyTorch.
"""

import itertools
import logging
import os
from collections.abc import Hashable
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from ..models import SNPModel
from ..models.snp_vit.modeling_snp_vit import SNPViTTokenMerging
from ..packages import FORMAT_OF_RUNTIME, package_version
from ..random_images import random_images
from ..structure import (
    Block,
    Structure,
    block_sizes,
    describe,
    query_key_step,
    resized_config,
    stream_widths,
    whole_parts,
)
from ..structure.costs import skeleton
from .backends import cpu_threads, prepare
from .latency import random_model, time_in_turn
from .latency_table import Grid, LatencyTable, block_kinds, table_path
from .machine import machine_name
from .stopwatch import fair_stopwatch


logger = logging.getLogger(__name__)

# Points of the grid: sizes of queries/keys, values and MLP each, and widths.
_POINTS = {"eager": (5, 3), "onnxruntime": (3, 2), "openvino": (3, 2)}
# The shares of the patches that reach a block at which it is measured where tokens merge; times curve little between.
_TOKEN_SHARES = (0.125, 0.5, 1.0)
_MERGED_SHARE = 0.125  # of its patches merge in a block that is measured; more take about as long
_NUM_RUNS, _NUM_WARMUP = 10, 2
_FORMAT_VERSION = 2  # of the saved table

Sizes = tuple[int, int, int, int]  # queries/keys and values per head, MLP, width


def latency_table(
    model: SNPModel, *, backend: str, batch_size: int, num_threads: int | None, merges_tokens: bool = False
) -> LatencyTable:
    """The table for an architecture on this machine, from the disk if it was measured before.

    Args:
        model:
            A model of this architecture and these sizes, on the device to measure on.
        backend (`str`):
            One of `LATENCY_BACKENDS`.
        batch_size (`int`):
            Images per forward pass.
        num_threads (`int`, *optional*):
            Threads on the CPU; by default as many as PyTorch uses.
        merges_tokens (`bool`, *optional*, defaults to `False`):
            Whether to measure fewer tokens, too, and how long merging takes.

    Returns:
        [`LatencyTable`]
    """
    backend = "eager" if backend == "compile" else backend
    with cpu_threads(num_threads) as num_threads:
        token_shares = _TOKEN_SHARES if merges_tokens else (1.0,)
        description = _describe(model, backend, batch_size, num_threads, token_shares)
        path = table_path(description)
        try:
            table = LatencyTable.load(path, description)
            logger.info(f"Latencies of blocks are those in {path}.")
            return table
        except FileNotFoundError:
            logger.info(f"Latencies of blocks are measured now, and kept in {path}.")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            logger.warning(f"{path} holds no latencies that can be read. They are measured again.")
        table = _measure(model, backend, batch_size, num_threads, token_shares)
    try:
        table.save(path, description)
    except OSError as error:
        logger.warning(f"The latencies of blocks are not kept, and will be measured again: {error}")
    return table


def _describe(
    model: SNPModel, backend: str, batch_size: int, num_threads: int, token_shares: tuple[float, ...]
) -> dict[str, Any]:
    """All that latencies depend on."""
    structure = describe(model)
    layers = {
        name: [rows, list(model.get_submodule(name).weight.shape)] for name, rows in structure.linear_rows.items()
    }
    versions = {"torch": torch.__version__}
    if backend in FORMAT_OF_RUNTIME:
        versions[backend] = package_version(backend)
    return {
        "format_version": _FORMAT_VERSION,
        "machine": machine_name(model.device),
        "cores": os.cpu_count(),
        "threads": num_threads,
        "versions": versions,
        "backend": backend,
        "batch_size": batch_size,
        "dtype": str(model.dtype),
        "attention": model.config._attn_implementation,
        "points": list(_POINTS[backend]),
        "token_shares": list(token_shares),
        "kinds": block_kinds(structure),
        "modules": sorted({type(block.module).__name__ for block in structure.blocks}),
        "layers": layers,
    }


def _measure(
    model: SNPModel, backend: str, batch_size: int, num_threads: int, token_shares: tuple[float, ...]
) -> LatencyTable:
    structure = describe(model)
    kinds = block_kinds(structure)
    axes = _axes(model.config, structure, *_POINTS[backend])
    tokens = {kind: _token_counts(block, token_shares) for kind, block in zip(kinds, structure.blocks, strict=True)}
    images = random_images(model, batch_size)
    modules: dict[Hashable, tuple[nn.Module, torch.Tensor]] = _blocks(model, structure, axes, tokens, images)
    if len(token_shares) > 1:
        modules |= _mergings(model, structure, axes, tokens, batch_size)
    # Whole models with next to nothing in their blocks tell what the rest takes.
    smallest_sizes = {
        position: {kind: (*(sizes[0] for sizes in parts), width) for kind, (*parts, width) in axes_at_width.items()}
        for position, axes_at_width in enumerate(_by_width(axes))
    }
    for position, sizes in smallest_sizes.items():
        modules[position] = random_model(model, _config(model, structure, sizes)), images
    # The shortest times: other work on the machine hits long calls more often than short ones, which skews medians.
    calls = prepare(modules, backend, num_threads)
    stopwatch = fair_stopwatch(model.device, num_threads)
    seconds = time_in_turn(calls, stopwatch, num_runs=_NUM_RUNS, num_warmup=_NUM_WARMUP, summary=min)

    attention, mlp, merging, rest = {}, {}, {}, {}
    for kind, (query_key, value, mlp_sizes, widths) in axes.items():
        counts = tokens[kind]
        attention_seconds = [
            [[[seconds[kind, (n, q, v, mlp_sizes[0], w)] for w in widths] for v in value] for q in query_key]
            for n in counts
        ]
        mlp_seconds = torch.tensor(
            [[[seconds[kind, (n, query_key[0], value[0], m, w)] for w in widths] for m in mlp_sizes] for n in counts]
        )
        attention[kind] = _grid([counts, query_key, value, widths], torch.tensor(attention_seconds))
        mlp[kind] = _grid([counts, mlp_sizes, widths], mlp_seconds - mlp_seconds[:, :1])
        if len(token_shares) > 1:
            merging_seconds = [[seconds["merging", kind, n, w] for w in widths] for n in counts]
            merging[kind] = _grid([counts, widths], torch.tensor(merging_seconds))
    streams = {block.stream: kind for block, kind in zip(structure.blocks, kinds, strict=True)}
    for position, sizes in smallest_sizes.items():
        shares = [sizes[kind][-1] / axes[kind][-1][-1] for kind in streams.values()]
        in_blocks = sum(seconds[kind, (tokens[kind][-1], *sizes[kind])] for kind in kinds)
        rest[sum(shares) / len(shares)] = seconds[position] - in_blocks
    return LatencyTable(attention, mlp, merging, _grid([list(rest)], torch.tensor(list(rest.values()))))


def _token_counts(block: Block, shares: tuple[float, ...]) -> list[int]:
    """How many tokens reach a block, rising, when these shares of its patches do."""
    gone = (min(round((1 - share) * block.num_patches), max(block.num_patches - 2, 0)) for share in shares)
    return sorted({block.map_tokens - count for count in gone})


def _grid(axes: list[list[int]], seconds: torch.Tensor) -> Grid:
    """A grid on which smaller sizes never take longer: where a larger one is faster, zeros can be put beside them."""
    for dimension in range(seconds.dim()):
        seconds = seconds.flip(dimension).cummin(dimension).values.flip(dimension)
    return Grid(axes, seconds.clamp_min(0).tolist())


def _axes(
    config: PretrainedConfig, structure: Structure, num_sizes: int, num_widths: int
) -> dict[str, list[list[int]]]:
    """For every kind of block the sizes to measure: queries/keys, values, MLP and width."""
    largest: dict[str, list[int]] = {}
    for block, kind, sizes in zip(structure.blocks, block_kinds(structure), block_sizes(config), strict=True):
        parts = [sizes["qk_head_dim"], sizes["v_head_dim"], sizes["intermediate_size"]]
        parts.append(structure.streams[block.stream].width)
        largest[kind] = [max(pair) for pair in zip(parts, largest.get(kind, parts), strict=True)]
    whole = whole_parts(config)
    return {
        kind: [
            [query_key] if "qk_sparsity" in whole else _axis(query_key, num_sizes, least=query_key_step(config)),
            *(_axis(size, num_sizes) for size in parts),
            [width] if "hidden_sparsity" in whole else _axis(width, num_widths),
        ]
        for kind, (query_key, *parts, width) in largest.items()
    }


def _axis(largest: int, count: int, least: int = 1) -> list[int]:
    """Sizes from the least to the largest: evenly spread multiples of 8, since kernels are fast for those."""
    steps = (8 * max(1, round(largest * step / (count - 1) / 8)) for step in range(1, count - 1))
    return sorted({least, largest, *(step for step in steps if step < largest)})


def _blocks(
    model: SNPModel,
    structure: Structure,
    axes: dict[str, list[list[int]]],
    tokens: dict[str, list[int]],
    images: torch.Tensor,
) -> dict[Hashable, tuple[nn.Module, torch.Tensor]]:
    """A block of every kind and shape, with its input, by kind and shape."""
    kinds = block_kinds(structure)
    examples = {kind: structure.blocks[kinds.index(kind)] for kind in axes}
    arguments = _arguments(model, [block.module for block in examples.values()], images)
    blocks = {}
    for axes_at_width in _by_width(axes):
        sizes_by_kind = {kind: _sizes_at(*parts) for kind, parts in axes_at_width.items()}
        for number in range(
            max(map(len, sizes_by_kind.values()))
        ):  # one skeleton of a model gives a block of every kind
            sizes = {kind: sizes_of[min(number, len(sizes_of) - 1)] for kind, sizes_of in sizes_by_kind.items()}
            small = skeleton(type(model), _config(model, structure, sizes))
            for kind, block in examples.items():
                hidden_states, *others = arguments[block.module]
                module = _with_weights(small.get_submodule(block.name), model)
                for count in tokens[kind]:
                    shape, alone = list(hidden_states.shape[:2]), _Alone(module, others)
                    if count < block.map_tokens:  # attention behind merged tokens counts their sizes
                        shape[1] = count
                        alone = _Alone(module, [], token_sizes=torch.randint(1, 4, shape).to(hidden_states))
                    inputs = torch.randn(*shape, sizes[kind][-1]).to(hidden_states)
                    blocks[kind, (count, *sizes[kind])] = alone, inputs
    return blocks


def _mergings(
    model: SNPModel,
    structure: Structure,
    axes: dict[str, list[list[int]]],
    tokens: dict[str, list[int]],
    batch_size: int,
) -> dict[Hashable, tuple[nn.Module, torch.Tensor]]:
    """The merging behind a block of every kind, with its input, by kind, tokens and width."""
    mergings: dict[Hashable, tuple[nn.Module, torch.Tensor]] = {}
    for kind, block in dict(zip(block_kinds(structure), structure.blocks, strict=True)).items():
        extra, widths = block.map_tokens - block.num_patches, axes[kind][-1]
        for count, width in itertools.product(tokens[kind], widths):
            # Keys get fewer with the width.
            keys = max(1, round(block.num_attention_heads * block.qk_head_dim * width / widths[-1]))
            merging = SNPViTTokenMerging(max(1, round(_MERGED_SHARE * (count - extra))), extra)
            inputs = torch.randn(batch_size, count, width + keys, device=model.device, dtype=model.dtype)
            mergings["merging", kind, count, width] = _MergingAlone(merging, width), inputs
    return mergings


def _by_width(axes: dict[str, list[list[int]]]) -> list[dict[str, tuple[list[int], list[int], list[int], int]]]:
    """The axes with one width each: first the least of every stream, at last the largest of every stream."""
    return [
        {kind: (*parts, widths[min(position, len(widths) - 1)]) for kind, (*parts, widths) in axes.items()}
        for position in range(max(len(widths) for *_, widths in axes.values()))
    ]


def _sizes_at(query_key: list[int], value: list[int], mlp_sizes: list[int], width: int) -> list[Sizes]:
    """All sizes of attention with the least MLP, and all of the MLP with the least attention."""
    attention = [(*pair, mlp_sizes[0], width) for pair in itertools.product(query_key, value)]
    return attention + [(query_key[0], value[0], size, width) for size in mlp_sizes[1:]]


class _Alone(nn.Module):
    """A block with all its inputs but the residual stream."""

    def __init__(self, block: nn.Module, arguments: list[Any], **named: torch.Tensor):
        super().__init__()
        self.block, self.arguments, self.named = block, arguments, named

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.block(hidden_states, *self.arguments, **self.named)[0]


class _MergingAlone(nn.Module):
    """The merging of tokens, from the states with the keys beside them."""

    def __init__(self, merging: SNPViTTokenMerging, width: int):
        super().__init__()
        self.merging, self.width = merging, width

    def forward(self, states_and_keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden_states, keys = states_and_keys[..., : self.width], states_and_keys[..., self.width :]
        return self.merging(hidden_states, keys, states_and_keys[..., 0].abs() + 1)


def _arguments(model: SNPModel, blocks: list[nn.Module], images: torch.Tensor) -> dict[nn.Module, tuple[Any, ...]]:
    """What each of these blocks gets in a forward pass."""
    arguments = {}
    hooks = [
        block.register_forward_pre_hook(lambda block, given: arguments.update({block: given})) for block in blocks
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return arguments


def _config(model: SNPModel, structure: Structure, sizes_of: dict[str, Sizes]) -> PretrainedConfig:
    """That of a model whose blocks have the sizes of their kinds."""
    widths, blocks = stream_widths(model.config).copy(), []
    for block, kind, sizes in zip(structure.blocks, block_kinds(structure), block_sizes(model.config), strict=True):
        query_key, value, mlp, widths[block.stream] = sizes_of[kind]
        blocks.append({**sizes, "qk_head_dim": query_key, "v_head_dim": value, "intermediate_size": mlp})
    config = resized_config(model.config, blocks, widths, refits=False)
    config._attn_implementation = model.config._attn_implementation
    return config


def _with_weights(module: nn.Module, model: SNPModel) -> nn.Module:
    """A module of a skeleton with random weights, on the device and in the dtype of the model."""
    module = module.to_empty(device=model.device).to(model.dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
        for buffer in module.buffers():  # which pairs of neurons rotary positions turn: all take the same time
            buffer.zero_()
    return module

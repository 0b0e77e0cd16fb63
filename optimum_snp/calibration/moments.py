"""Second moments for the closed-form methods: what passes between the layers, as sums that do not grow with images.

Everything that refit and projection solve is a least-squares problem whose normal equations hold only sums of outer
products. The sums of one block (float64, over all tokens of all images):

    query_moment    [heads, d, d]  sum q q^T
    key_moment      [heads, d, d]  sum k k^T, with k centred over the tokens of its map: softmax ignores the mean key
    context_moment  [H e, H e]     sum c c^T of the attention-weighted values of all heads, input of the output layer
    mlp_moment      [M, M]         sum a a^T of the MLP's neurons, the input of its second layer

Queries and keys are those of the scores, turned by rotary positions where there are some. `context_sum`, `mlp_sum` are
the plain sums, and `query_num_tokens`, `context_num_tokens`, `mlp_num_tokens` the rows summed over. The sums of one
norm, over the rows that its readers get:

    num_tokens  []      rows summed over
    moment      [C, C]  sum n n^T of what the norm puts out without its own scale and shift
    sum         [C]     sum n

`C` is the width of the residual stream, or that times the vectors that lie side by side in a row: four tokens in a
patch merging, the class token and the mean of the patches before the classifier of a DINOv2.
Tokens that pad a window are tokens of its attention map, so their queries and keys count, as the model uses them; all
else runs over the tokens of the image.

Source: our choice (docs/one-shot.md).
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..devices import place_with_room
from ..structure import Block, Norm, Structure
from .shapes import shapes_of_sums
from .statistics import CalibrationStatistics


Sums = dict[str, torch.Tensor]

# Of every regression, relative to the mean of the diagonal of its covariance. On two models trained on digits, 1e-4 to
# 1e-2 differ by less than the noise at 16 images and more; less is worse at one image, 1e-1 is worse at all.
RIDGE = 1e-3

# Only what lies right of the diagonal is multiplied, in strips of so many channels: as many as keep the products fast.
_STRIP = 256

# From so many channels on, products cost enough to be worth rounding; see [`add_outer_products`].
ROUNDED_FROM = 256


class Scratch:
    """Memory for what is needed only for a moment, used again: taking it anew can take longer than the work on it."""

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def empty_like(self, rows: torch.Tensor) -> torch.Tensor:
        """A float32 tensor of the shape of `rows`, on its device, that holds until the next call."""
        if self._values.numel() < rows.numel() or self._values.device != rows.device:
            self._values = rows.new_empty(rows.numel(), dtype=torch.float32)
        return self._values[: rows.numel()].view(rows.shape)


def place_of_sums(structure: Structure, device: torch.device) -> torch.device:
    """Where second moments are summed: on the device of the model, if they take at most a quarter of its free memory.

    Otherwise they are summed in main memory, which every batch of every layer then waits for. A device that has no
    float64, or does not tell how much memory is free, sums there, too.
    """
    shapes = shapes_of_sums(structure, moments=True, sensitivities=False).values()
    size = sum(torch.float64.itemsize * math.prod(shape) for shape in shapes)
    return place_with_room(device, size)


def moment_hooks(
    structure: Structure,
    model: nn.Module,
    statistics: CalibrationStatistics,
    place: torch.device | str = "cpu",
) -> list[Any]:
    """Makes every forward pass of the model add its second moments to `statistics`, where they start from zero.

    Large moments hold only their upper triangle until [`complete_moments`].

    Args:
        structure ([`Structure`]):
            Of the model.
        model:
            A model of our architecture.
        statistics ([`CalibrationStatistics`]):
            With one dict per block.
        place (`torch.device` or `str`, *optional*, defaults to the CPU):
            Where the sums are kept; see [`place_of_sums`].

    Returns:
        The handles of the hooks; remove them to stop.
    """
    handles, scratch = [], Scratch()
    for block, sums in zip(structure.blocks, statistics.blocks, strict=True):
        handles += _block_hooks(block, model, sums, scratch, place)
    for stream in structure.streams:
        for norm in stream.norms:
            sums = statistics.norms[norm.name] = _start("", norm.chunks * stream.width, place)
            handles.append(_norm_hook(norm, model.get_submodule(norm.name), sums, scratch))
    return handles


def _norm_hook(norm: Norm, module: nn.Module, sums: Sums, scratch: Scratch) -> Any:
    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden_states = inputs[0].detach().float()
        if norm.normalizes:
            hidden_states = F.layer_norm(hidden_states, module.normalized_shape, eps=module.eps)
        _add(sums, "", norm.read(hidden_states).flatten(0, -2), scratch)

    return module.register_forward_pre_hook(add)


def _block_hooks(block: Block, model: nn.Module, sums: Sums, scratch: Scratch, place: torch.device | str) -> list[Any]:
    heads, head_dim = block.num_attention_heads, block.qk_head_dim
    query, key, output, down = map(model.get_submodule, (*block.score_inputs, block.output, block.down))
    sums["query_num_tokens"] = _zeros(place=place)
    sums["query_moment"] = _zeros(heads, head_dim, head_dim, place=place)
    sums["key_moment"] = _zeros(heads, head_dim, head_dim, place=place)
    sums |= _start("context_", output.in_features, place) | _start("mlp_", down.in_features, place)

    def add(name: str, states: torch.Tensor) -> None:
        by_head = states.detach().float().flatten(0, 1).unflatten(-1, (heads, head_dim)).transpose(0, 1)
        sums[name] += (by_head.mT @ by_head).to(sums[name].device)

    def add_query(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        sums["query_num_tokens"] += output.shape[0] * output.shape[1]
        add("query_moment", output)

    def add_key(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        add("key_moment", output - output.mean(dim=1, keepdim=True))

    def add_input(name: str) -> Any:
        return lambda _module, inputs: _add(sums, name, inputs[0].detach().flatten(0, -2), scratch)

    return [
        query.register_forward_hook(add_query),
        key.register_forward_hook(add_key),
        output.register_forward_pre_hook(add_input("context_")),
        down.register_forward_pre_hook(add_input("mlp_")),
    ]


def add_outer_products(moment: torch.Tensor, total: torch.Tensor, rows: torch.Tensor, scratch: Scratch) -> None:
    """Adds `sum x x^T` of the rows to the upper triangle of `moment`, and `sum x` to `total`.

    The product runs on the rows less their mean, and the mean is put back in float64: a large mean then costs the
    covariance no digits. From `ROUNDED_FROM` channels on, CPUs that multiply bfloat16 several times faster get the
    centred rows rounded to it, and sum in float32 (PyTorch's `fp32_precision`): as if these activations had 8 bits,
    which adds a thousandth of the ridge of a regression.

    Args:
        moment (`torch.Tensor` of shape `[channels, channels]`):
            Float64, where the sums are kept, changed in place; what is below the diagonal is left in part.
        total (`torch.Tensor` of shape `[channels]`):
            Float64, beside it, changed in place.
        rows (`torch.Tensor` of shape `[n, channels]`):
            Of any floating dtype, on any device.
        scratch ([`Scratch`]):
            For the rows less their mean.
    """
    if not len(rows):
        return
    rows = rows.float()
    mean = rows.mean(dim=0)
    centred = torch.sub(rows, mean, out=scratch.empty_like(rows))
    # Float64 from here on, with what rounding of the mean left.
    place = moment.device
    mean = mean.to(place).double() + centred.sum(dim=0).to(place).double() / len(rows)
    with _fast_products() if rows.shape[1] >= ROUNDED_FROM else contextlib.nullcontext():
        for start in range(0, rows.shape[1], _STRIP):
            stop = start + _STRIP
            strip = moment[start:stop, start:]
            strip += (centred[:, start:stop].mT @ centred[:, start:]).to(place)
            strip.addr_(mean[start:stop], mean[start:], alpha=len(rows))
    total += len(rows) * mean


@contextlib.contextmanager
def _fast_products() -> Iterator[None]:
    """Lets PyTorch round float32 factors to bfloat16, where the CPU has instructions for that."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)  # torch >= 2.9
    if settings is None:
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@torch.inference_mode()
def complete_moments(statistics: CalibrationStatistics) -> None:
    """Mirrors the upper triangles that [`moment_hooks`] summed, once all images have passed."""
    for sums in [*statistics.blocks, *statistics.norms.values()]:
        for name in {"context_moment", "mlp_moment", "moment"} & sums.keys():
            moment = sums[name]
            for start in range(0, len(moment), _STRIP):
                stop = start + _STRIP
                diagonal = moment[start:stop, start:stop]
                diagonal.copy_(diagonal.triu() + diagonal.triu(1).mT)
                moment[stop:, start:stop] = moment[start:stop, stop:].mT


def covariance_and_mean(sums: Sums, prefix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Of the rows whose moments `sums` holds under names with that prefix: `[n, n]` and `[n]`, float64."""
    count = sums[f"{prefix}num_tokens"].clamp_min(1)
    mean = sums[f"{prefix}sum"] / count
    return (sums[f"{prefix}moment"] / count).addr_(mean, mean, alpha=-1), mean


def _start(prefix: str, size: int, place: torch.device | str) -> Sums:
    shapes = {"num_tokens": (), "moment": (size, size), "sum": (size,)}
    return {f"{prefix}{name}": _zeros(*shape, place=place) for name, shape in shapes.items()}


def _add(sums: Sums, prefix: str, rows: torch.Tensor, scratch: Scratch) -> None:
    sums[f"{prefix}num_tokens"] += len(rows)
    add_outer_products(sums[f"{prefix}moment"], sums[f"{prefix}sum"], rows, scratch)


def _zeros(*shape: int, place: torch.device | str) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=place)

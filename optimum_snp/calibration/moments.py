"""Second moments for the closed-form methods: what passes between the layers, as sums that do not grow with images.

Everything that refit and projection solve is a least-squares problem whose normal equations hold only sums of outer
products. The sums of one block (float64, over all tokens of all images):

    query_moment    [heads, d, d]  sum q q^T
    key_moment      [heads, d, d]  sum k k^T, with k centred over the tokens of its map: softmax ignores the mean key
    context_moment  [H e, H e]     sum c c^T of the attention-weighted values of all heads, the input of `o_proj`
    mlp_moment      [M, M]         sum a a^T of the MLP's activations, the input of `fc2`

`context_sum`, `mlp_sum` are the plain sums, and `query_num_tokens`, `context_num_tokens`, `mlp_num_tokens` the rows
summed over. The sums of one norm, over the rows that its readers get:

    num_tokens  []      rows summed over
    moment      [C, C]  sum n n^T of what the norm puts out without its own scale and shift
    sum         [C]     sum n

`C` is the width of the residual stream, or four times that in a patch merging, where four tokens lie side by side.
Tokens that pad a window are tokens of its attention map, so their queries and keys count, as the model uses them; all
else runs over the tokens of the image.

Source: our choice (docs/one-shot.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..structure import Norm, Structure
from .statistics import CalibrationStatistics


Sums = dict[str, torch.Tensor]

# Of every regression, relative to the mean of the diagonal of its covariance. On two models trained on digits, 1e-4 to
# 1e-2 differ by less than the noise at 16 images and more; less is worse at one image, 1e-1 is worse at all.
RIDGE = 1e-3


def moment_hooks(structure: Structure, model: nn.Module, statistics: CalibrationStatistics) -> list[Any]:
    """Makes every forward pass of the model add its second moments to `statistics`, where they start from zero.

    Args:
        structure ([`Structure`]):
            Of the model.
        model:
            A model of our architecture.
        statistics ([`CalibrationStatistics`]):
            With one dict per block.

    Returns:
        The handles of the hooks; remove them to stop.
    """
    handles = []
    for block, sums in zip(structure.blocks, statistics.blocks, strict=True):
        handles += _block_hooks(block.module, sums)
    for stream in structure.streams:
        for norm in stream.norms:
            sums = statistics.norms[norm.name] = _start("", norm.repeats * stream.width)
            handles.append(_norm_hook(norm, model.get_submodule(norm.name), sums))
    return handles


def _norm_hook(norm: Norm, module: nn.Module, sums: Sums) -> Any:
    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden_states = inputs[0].float()
        states = F.layer_norm(hidden_states, module.normalized_shape, eps=module.eps)
        _add(sums, "", norm.read(states).flatten(0, -2))

    return module.register_forward_pre_hook(add)


def _block_hooks(layer: nn.Module, sums: Sums) -> list[Any]:
    attention = layer.attention
    heads, head_dim = attention.num_attention_heads, attention.qk_head_dim
    sums["query_num_tokens"] = _zeros()
    sums["query_moment"] = _zeros(heads, head_dim, head_dim)
    sums["key_moment"] = _zeros(heads, head_dim, head_dim)
    sums |= _start("context_", attention.o_proj.in_features) | _start("mlp_", layer.mlp.fc2.in_features)

    def by_head(states: torch.Tensor) -> torch.Tensor:
        return states.flatten(0, 1).unflatten(-1, (heads, head_dim)).transpose(0, 1)  # [heads, rows, head_dim]

    def add_query(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        sums["query_num_tokens"] += output.shape[0] * output.shape[1]
        sums["query_moment"] += second_moment(by_head(output))[0]

    def add_key(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        output = output.float()
        sums["key_moment"] += second_moment(by_head(output - output.mean(dim=1, keepdim=True)))[0]

    def add_input(name: str) -> Any:
        return lambda _module, inputs: _add(sums, name, inputs[0].flatten(0, -2))

    return [
        attention.q_proj.register_forward_hook(add_query),
        attention.k_proj.register_forward_hook(add_key),
        attention.o_proj.register_forward_pre_hook(add_input("context_")),
        layer.mlp.fc2.register_forward_pre_hook(add_input("mlp_")),
    ]


def second_moment(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of outer products and of the rows themselves.

    The product runs in float32 on the rows less their mean, and the mean is put back in float64: a large mean then
    costs the covariance no digits.

    Args:
        rows (`torch.Tensor` of shape `[..., n, channels]`):
            Of any floating dtype, on any device.

    Returns:
        Float64 on the CPU: `sum x x^T` of shape `[..., channels, channels]` and `sum x` of shape `[..., channels]`.
    """
    rows = rows.float()
    mean = rows.sum(dim=-2, keepdim=True) / max(rows.shape[-2], 1)
    centred = rows - mean
    moment = (centred.mT @ centred).cpu().double()
    # Float64 from here on; `left_over` is what rounding of the mean left.
    mean, left_over = mean.cpu().double(), centred.sum(dim=-2, keepdim=True).cpu().double()
    total = left_over + rows.shape[-2] * mean
    return moment + mean.mT @ total + left_over.mT @ mean, total.squeeze(-2)


def covariance_and_mean(sums: Sums, prefix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Of the rows whose moments `sums` holds under names with that prefix: `[n, n]` and `[n]`, float64."""
    count = sums[f"{prefix}num_tokens"].clamp_min(1)
    mean = sums[f"{prefix}sum"] / count
    return sums[f"{prefix}moment"] / count - torch.outer(mean, mean), mean


def _start(prefix: str, size: int) -> Sums:
    return {f"{prefix}num_tokens": _zeros(), f"{prefix}moment": _zeros(size, size), f"{prefix}sum": _zeros(size)}


def _add(sums: Sums, prefix: str, rows: torch.Tensor) -> None:
    moment, total = second_moment(rows)
    sums[f"{prefix}num_tokens"] += len(rows)
    sums[f"{prefix}moment"] += moment
    sums[f"{prefix}sum"] += total


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)

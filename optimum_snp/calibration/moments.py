"""Second moments for the closed-form methods: what passes between the layers, as sums that do not grow with images.

Everything that refit and projection solve is a least-squares problem whose normal equations hold only sums of outer
products. The sums of one block (float64, over all tokens of all images; `x` runs over tokens):

    num_tokens      [],            tokens summed over
    query_moment    [heads, d, d]  sum q q^T
    key_moment      [heads, d, d]  sum k k^T, with k centred over the tokens of its image: softmax ignores the mean key
    context_moment  [H e, H e]     sum c c^T of the attention-weighted values of all heads, the input of `o_proj`
    mlp_moment      [M, M]         sum a a^T of the MLP's activations, the input of `fc2`
    before_moment   [D, D]         sum n n^T of the normalised residual stream before the attention, without the norm's
                                   own scale and shift
    after_moment    [D, D]         the same after the attention, before the MLP

and `context_sum`, `mlp_sum`, `before_sum`, `after_sum` are the plain sums `sum x`. `CalibrationStatistics.stream`
holds `num_tokens`, `final_moment` and `final_sum` of the final norm, over the tokens that are read there.

Source: our choice (docs/one-shot.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .statistics import CalibrationStatistics


Sums = dict[str, torch.Tensor]

# Of every regression, relative to the mean of the diagonal of its covariance. On two models trained on digits, 1e-4 to
# 1e-2 differ by less than the noise at 16 images and more; less is worse at one image, 1e-1 is worse at all.
RIDGE = 1e-3


def moment_hooks(model: nn.Module, statistics: CalibrationStatistics) -> list[Any]:
    """Makes every forward pass of the model add its second moments to `statistics`, where they start from zero.

    Args:
        model:
            A model of our architecture.
        statistics ([`CalibrationStatistics`]):
            With one dict per block.

    Returns:
        The handles of the hooks; remove them to stop.
    """
    base_model = model.base_model
    handles = []
    for layer, sums in zip(base_model.layers, statistics.blocks, strict=True):
        handles += _block_hooks(layer, sums)
    # Only the class token, and the distillation token if there is one, reach a classifier or a pooler.
    reads_all = model is base_model and base_model.pooler is None
    tokens = slice(None) if reads_all else slice(base_model.embeddings.num_extra_tokens)
    _start(statistics.stream, "final", base_model.config.hidden_size)
    statistics.stream["num_tokens"] = _zeros()

    def add_final(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = normalised(norm, inputs[0][:, tokens]).flatten(0, -2)
        statistics.stream["num_tokens"] += rows.shape[0]
        _add(statistics.stream, "final", rows)

    return [*handles, base_model.layernorm.register_forward_pre_hook(add_final)]


def _block_hooks(layer: nn.Module, sums: Sums) -> list[Any]:
    attention = layer.attention
    heads, head_dim = attention.num_attention_heads, attention.qk_head_dim
    sums["num_tokens"] = _zeros()
    sums["query_moment"] = _zeros(heads, head_dim, head_dim)
    sums["key_moment"] = _zeros(heads, head_dim, head_dim)
    _start(sums, "context", attention.o_proj.in_features)
    _start(sums, "mlp", layer.mlp.fc2.in_features)
    _start(sums, "before", attention.q_proj.in_features)
    _start(sums, "after", layer.mlp.fc1.in_features)

    def by_head(states: torch.Tensor) -> torch.Tensor:
        return states.flatten(0, 1).unflatten(-1, (heads, head_dim)).transpose(0, 1)  # [heads, rows, head_dim]

    def add_query(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        sums["num_tokens"] += output.shape[0] * output.shape[1]
        sums["query_moment"] += second_moment(by_head(output))[0]

    def add_key(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        output = output.float()
        sums["key_moment"] += second_moment(by_head(output - output.mean(dim=1, keepdim=True)))[0]

    def add_normalised(name: str) -> Any:
        return lambda norm, inputs: _add(sums, name, normalised(norm, inputs[0]).flatten(0, -2))

    def add_input(name: str) -> Any:
        return lambda _module, inputs: _add(sums, name, inputs[0].flatten(0, -2))

    return [
        attention.q_proj.register_forward_hook(add_query),
        attention.k_proj.register_forward_hook(add_key),
        attention.o_proj.register_forward_pre_hook(add_input("context")),
        layer.mlp.fc2.register_forward_pre_hook(add_input("mlp")),
        layer.layernorm_before.register_forward_pre_hook(add_normalised("before")),
        layer.layernorm_after.register_forward_pre_hook(add_normalised("after")),
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


def covariance_and_mean(sums: Sums, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the rows whose moments `sums` holds under `name`: `[n, n]` and `[n]`, float64."""
    count = sums["num_tokens"].clamp_min(1)
    mean = sums[f"{name}_sum"] / count
    return sums[f"{name}_moment"] / count - torch.outer(mean, mean), mean


def normalised(norm: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """What a layer norm or RMS norm makes of the residual stream, without its scale and shift, in float32."""
    hidden_states = hidden_states.float()
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(hidden_states, norm.normalized_shape, eps=norm.eps)
    return norm.forward(hidden_states)  # an RMS norm has neither; not called, since a hook asks


def _start(sums: Sums, name: str, size: int) -> None:
    sums[f"{name}_moment"], sums[f"{name}_sum"] = _zeros(size, size), _zeros(size)


def _add(sums: Sums, name: str, rows: torch.Tensor) -> None:
    moment, total = second_moment(rows)
    sums[f"{name}_moment"] += moment
    sums[f"{name}_sum"] += total


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)

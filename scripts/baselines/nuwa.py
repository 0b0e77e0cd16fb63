"""NuWa's decompositions: per head the SVD of `W_q^T W_k` and of `W_v^T W_o^T`, from the weights alone.

Biases count as one more input of the projections. It has no rule for the MLP that fits here (its own is for classes).
"""

import torch

from optimum_snp import PruningPlan
from optimum_snp.calibration import CalibrationStatistics
from optimum_snp.models import SNPModel
from optimum_snp.plan.sizes import Part
from optimum_snp.reshaping.select import Weights
from optimum_snp.structure import Block, describe

from .equal_sizes import build, double_weights, plan_of_sizes


PARTS = {Part.QUERY_KEY, Part.VALUE}


def prune(dense: SNPModel, _statistics: CalibrationStatistics, plan: PruningPlan) -> SNPModel:
    """The model of the plan's sizes by decompositions of the weights."""
    plan = plan_of_sizes(dense, plan)
    weights = double_weights(dense)
    for block, block_plan in zip(describe(dense).blocks, plan.blocks, strict=True):
        _cut_scores(weights, block, block_plan.after["qk_head_dim"])
        cut_values(weights, block, block_plan.after["v_head_dim"])
    return build(dense, plan, weights)


def _cut_scores(weights: Weights, block: Block, size: int) -> None:
    if size == block.qk_head_dim:
        return
    queries, keys = (_with_bias(weights, name, block.num_attention_heads) for name in (block.query, block.key))
    left, right = zip(*(_factors(query.T, key, size) for query, key in zip(queries, keys, strict=True)), strict=True)
    _set(weights, block.query, torch.cat([factor.T for factor in left]))
    _set(weights, block.key, torch.cat(right))


def cut_values(weights: Weights, block: Block, size: int) -> None:
    """Cuts the values of every head to `size` directions."""
    if size == block.v_head_dim:
        return
    values = _with_bias(weights, block.value, block.num_attention_heads)
    outputs = weights[f"{block.output}.weight"].unflatten(1, (block.num_attention_heads, -1)).unbind(1)
    left, right = zip(*(_factors(out, value, size) for out, value in zip(outputs, values, strict=True)), strict=True)
    weights[f"{block.output}.weight"] = torch.cat(left, dim=1)
    _set(weights, block.value, torch.cat(right))


def _factors(left: torch.Tensor, right: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of `left @ right` by factors with `size` in between."""
    # Through triangular factors, since the product is far larger than its rank.
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T)
    root = s[:size].sqrt()
    return q_left @ u[:, :size] * root, (root.unsqueeze(1) * v[:size]) @ q_right.T


def _with_bias(weights: Weights, name: str, heads: int) -> torch.Tensor:
    """The rows of every head, `[heads, head_dim, inputs + 1]`."""
    weight = weights[f"{name}.weight"]
    bias = weights.get(f"{name}.bias", torch.zeros(len(weight), dtype=torch.float64))
    return torch.cat((weight, bias.unsqueeze(1)), dim=1).unflatten(0, (heads, -1))


def _set(weights: Weights, name: str, rows: torch.Tensor) -> None:
    weights[f"{name}.weight"] = rows[:, :-1]
    if f"{name}.bias" in weights:
        weights[f"{name}.bias"] = rows[:, -1]

"""Reshaping by selection and least squares (`method="snp-refit"`), and the regressions that other methods share.

SNP's neurons are kept, then what reads them is fitted to what the dense layer put out on the calibration images.
Every regression is solved from sums, never from activations. Its ridge pulls towards the weights that would
be there without a refit, not towards zero: in directions that few calibration images leave open, nothing changes.

Source: our choice (docs/one-shot.md).
"""

import torch

from ..calibration.moments import RIDGE, Sums, covariance_and_mean
from ..linear_algebra import ridge_cholesky
from ..plan import BlockPlan
from ..scoring import pair_gram, pair_target
from ..structure import Block
from .select import Weights, rows_of_heads, select_block


def refit_linear(
    weight: torch.Tensor,
    bias: torch.Tensor,
    covariance: torch.Tensor,
    mean: torch.Tensor,
    basis: torch.Tensor,
    prior: torch.Tensor,
    ridge: float = RIDGE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer on fewer inputs that best replaces one on all inputs.

    Minimises `E |W x + b - (W' z + b')|^2 + ridge * mean_variance(z) * |W' - prior|^2` over `W'` and `b'`, for
    `z = basis^T x`.

    Args:
        weight, bias (`torch.Tensor` of shapes `[outputs, inputs]` and `[outputs]`):
            The dense layer.
        covariance, mean (`torch.Tensor` of shapes `[inputs, inputs]` and `[inputs]`):
            Of its inputs, float64.
        basis (`torch.Tensor` of shape `[inputs, kept]`, or of integers of shape `[kept]`):
            What is kept of the inputs: directions, or the positions of a selection.
        prior (`torch.Tensor` of shape `[outputs, kept]`):
            The weights without refit.
        ridge (`float`, *optional*):
            Relative to the mean variance of the kept inputs.

    Returns:
        `tuple`: `W'` of shape `[outputs, kept]` and `b'` of shape `[outputs]`, float64. Finite for any covariance.
    """
    if basis.is_floating_point():
        crossed = covariance @ basis
        kept, kept_mean = basis.T @ crossed, basis.T @ mean
    else:
        crossed = covariance[:, basis]
        kept, kept_mean = crossed[basis], mean[basis]
    residual = weight @ crossed - prior @ kept
    factor = ridge_cholesky(kept, ridge)
    refitted = prior + torch.cholesky_solve(residual.T, factor).T
    return refitted, bias + weight @ mean - refitted @ kept_mean


def refit_scores(query_moment: torch.Tensor, key_moment: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """The mixing of one head's kept queries that makes up best for the neurons that went.

    Minimises `|Q_S Z K_S^T - Q K^T|` over `Z`, both sides weighted by the moments of the calibration images. Its ridge
    pulls towards the identity.

    Args:
        query_moment, key_moment (`torch.Tensor` of shape `[d, d]`):
            Of this head.
        kept (`list[int]`):
            The neurons `S`.

    Returns:
        `torch.Tensor` of shape `[kept, kept]`: `Z`; the new queries are `Q_S Z`.
    """
    identity, zero = torch.eye(len(query_moment), dtype=torch.float64), torch.zeros(len(query_moment)).double()
    basis = torch.tensor(kept)
    # Separable: the kept queries stand in for all, and the kept keys.
    query_side, key_side = (
        refit_linear(identity, zero, moment, zero, basis, identity[:, kept])[0]  # [d, kept]
        for moment in (query_moment, key_moment)
    )
    return query_side.T @ key_side


def refit_pairs(query_moment: torch.Tensor, key_moment: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """The same under rotary positions, where pairs of neurons are kept: `Z` that lengthens and turns each pair alone.

    Nothing else passes the turns of the positions. See [`optimum_snp.scoring.rotary`].

    Args:
        query_moment, key_moment (`torch.Tensor` of shape `[d, d]`):
            Of this head, turned by the positions.
        kept (`list[int]`):
            The neurons `S`: the first ones of the kept pairs, then the second ones.

    Returns:
        `torch.Tensor` of shape `[kept, kept]`: `Z`; the new queries are `Q_S Z`.
    """
    gram, target = pair_gram(query_moment, key_moment), pair_target(len(query_moment))
    zero = torch.zeros(len(gram), dtype=torch.float64)
    firsts = torch.tensor(kept[: len(kept) // 2])
    basis = (2 * firsts.unsqueeze(1) + torch.arange(2)).flatten()
    numbers, _ = refit_linear(target, zero[:1], gram, zero, basis, target[:, basis])
    length, turn = (torch.diag(part) for part in numbers.view(-1, 2).T)
    return torch.cat((torch.cat((length, turn), dim=1), torch.cat((-turn, length), dim=1)))


def refit_block(weights: Weights, block: Block, plan: BlockPlan, sums: Sums) -> None:
    """Replaces the weights of one block by those of its kept neurons, refitted; parts of unchanged size stay."""
    dense_output, dense_down = (dense_layer(weights, layer) for layer in (block.output, block.down))
    select_block(weights, block, plan)
    if plan.after["qk_head_dim"] < plan.before["qk_head_dim"]:
        refit_queries(weights, block, plan, sums)
    if plan.after["v_head_dim"] < plan.before["v_head_dim"]:
        kept = rows_of_heads(plan.value, plan.before["v_head_dim"])
        refit_reader(weights, block.output, *dense_output, sums, "context_", kept)
    if plan.after["intermediate_size"] < plan.before["intermediate_size"]:
        refit_reader(weights, block.down, *dense_down, sums, "mlp_", plan.mlp)


def refit_queries(weights: Weights, block: Block, plan: BlockPlan, sums: Sums) -> None:
    """Refits the kept queries of a block, so that its scores come near those of all queries and keys."""
    refit = refit_scores if block.rotary_pairs is None else refit_pairs
    heads = zip(sums["query_moment"], sums["key_moment"], plan.query_key, strict=True)
    map_heads(weights, block.query, torch.stack([refit(*head) for head in heads]))


def dense_layer(weights: Weights, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear layer before it is reshaped."""
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def refit_reader(
    weights: Weights,
    name: str,
    dense_weight: torch.Tensor,
    dense_bias: torch.Tensor,
    sums: Sums,
    prefix: str,
    kept: list[int],
) -> None:
    """Refits the layer `name` to the inputs `kept` of the dense layer; their moments have that `prefix` in `sums`."""
    weights[f"{name}.weight"], weights[f"{name}.bias"] = refit_linear(
        dense_weight, dense_bias, *covariance_and_mean(sums, prefix), torch.tensor(kept), dense_weight[:, kept]
    )


def map_heads(weights: Weights, name: str, maps: torch.Tensor) -> None:
    """Replaces the outputs `x` of each head by `x @ maps[head]`, with `maps` of shape `[heads, before, after]`."""
    for part in ("weight", "bias"):
        if f"{name}.{part}" in weights:  # queries, keys and values may come without bias
            rows = weights[f"{name}.{part}"]
            by_head = rows.unflatten(0, maps.shape[:2])
            weights[f"{name}.{part}"] = torch.einsum("hij,hi...->hj...", maps, by_head).flatten(0, 1)

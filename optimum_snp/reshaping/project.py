"""Reshaping in closed form (`method="projection"`): the directions themselves are kept, not neurons.

Queries, keys and values are linear in what they read, so any basis of their kept directions folds into ordinary
weights. MLP neurons sit behind an activation, so they are selected (by backward elimination, at planning time) and the
second layer is refitted. The shape of the model is that of a selection of the same sizes.

Source: our choice (docs/one-shot.md); for queries and keys the weighted low-rank approximation of `Q K^T` under the
moments of both sides.
"""

import torch

from ..calibration.moments import Sums, covariance_and_mean
from ..linear_algebra import root_and_inverse
from ..plan import PROJECTED, BlockPlan
from ..structure import Block
from .refit import dense_layer, map_heads, refit_linear, refit_queries, refit_reader
from .select import Weights, select_mlp, select_queries_and_keys


def project_block(weights: Weights, block: Block, plan: BlockPlan, sums: Sums) -> None:
    """Replaces the weights of one block by those of the plan's sizes; parts of unchanged size stay."""
    if plan.query_key == PROJECTED:
        size = plan.after["qk_head_dim"]
        maps = [
            project_scores(*moments, size) for moments in zip(sums["query_moment"], sums["key_moment"], strict=True)
        ]
        map_heads(weights, block.query, torch.stack([query for query, _ in maps]))
        map_heads(weights, block.key, torch.stack([key for _, key in maps]))
    elif plan.after["qk_head_dim"] < plan.before["qk_head_dim"]:  # pairs of rotary positions
        select_queries_and_keys(weights, block, plan)
        refit_queries(weights, block, plan, sums)
    if plan.value == PROJECTED:
        _project_values(weights, block, plan, sums)
    if plan.after["intermediate_size"] < plan.before["intermediate_size"]:
        dense_down = dense_layer(weights, block.down)
        select_mlp(weights, block, plan.mlp)
        refit_reader(weights, block.down, *dense_down, sums, "mlp_", plan.mlp)


def project_scores(
    query_moment: torch.Tensor, key_moment: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps of one head's queries and keys to `size` dimensions that keep the attention scores best.

    Minimises `|G_q^(1/2) (X - I) G_k^(1/2)|` over `X = B_q B_k^T` of rank `size`.

    Args:
        query_moment, key_moment (`torch.Tensor` of shape `[d, d]`):
            `G_q` and `G_k`, float64; keys centred, since softmax ignores what all keys share.
        size (`int`):
            Dimensions to keep.

    Returns:
        `tuple`: `B_q` and `B_k`, `[d, size]`; new queries are `Q B_q`. Both sides carry the same energy.
    """
    query_root, query_inverse = root_and_inverse(query_moment)
    key_root, key_inverse = root_and_inverse(key_moment)
    left, values, right = torch.linalg.svd(query_root @ key_root)
    shared = values[:size].sqrt()
    return query_inverse @ left[:, :size] * shared, key_inverse @ right.mT[:, :size] * shared


def project_output(covariance: torch.Tensor, weight: torch.Tensor, size: int) -> torch.Tensor:
    """The directions of one head's output that matter most to the block's output.

    Args:
        covariance (`torch.Tensor` of shape `[e, e]`):
            Of the head's attention-weighted values, float64.
        weight (`torch.Tensor` of shape `[outputs, e]`):
            The columns of the output projection that read the head.
        size (`int`):
            Directions to keep.

    Returns:
        `torch.Tensor` of shape `[e, size]`: The map of the values; mapped, they are uncorrelated, of equal variance.
    """
    root, inverse = root_and_inverse(covariance)
    directions = torch.linalg.eigh(root @ (weight.mT @ weight) @ root).eigenvectors.flip(-1)
    return inverse @ directions[:, :size]


def _project_values(weights: Weights, block: Block, plan: BlockPlan, sums: Sums) -> None:
    heads, before, after = len(plan.heads), plan.before["v_head_dim"], plan.after["v_head_dim"]
    covariance, mean = covariance_and_mean(sums, "context_")
    weight, bias = dense_layer(weights, block.output)
    maps, priors = [], []
    for head in range(heads):
        rows = slice(head * before, (head + 1) * before)
        values = project_output(covariance[rows, rows], weight[:, rows], after)
        maps.append(values)
        # Reads the kept directions as before; the rest of the head counts as its mean.
        priors.append(weight[:, rows] @ covariance_pinv(values, covariance[rows, rows]))
    map_heads(weights, block.value, torch.stack(maps))
    # All heads together: what one head has lost, another may still hold.
    weights[f"{block.output}.weight"], weights[f"{block.output}.bias"] = refit_linear(
        weight, bias, covariance, mean, torch.block_diag(*maps), torch.cat(priors, dim=1)
    )


def covariance_pinv(basis: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Back from `z = basis^T x` to `x`: the least-squares estimate `[inputs, kept]` for `x` of this covariance."""
    root, _ = root_and_inverse(covariance)
    return root @ torch.linalg.pinv(basis.mT @ root)

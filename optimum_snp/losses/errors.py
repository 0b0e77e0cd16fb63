"""Errors of linear layers that keep only some of their inputs, and what they mean to the outputs.

Parts whose neurons are kept in the order of their scores, the highest first, need one factorisation for all sizes:
with `C = L L^T` the covariance of the neurons in that order, the error of a reader `W` refitted to the first `r` of
them is `sum_(k >= r) |W L_k|^2` over the columns of `L`.

Source: our choice.
"""

import torch

from ..calibration.moments import RIDGE, Sums
from ..linear_algebra import ridge_cholesky


def nested_errors(
    moment: torch.Tensor, readers: torch.Tensor | None, order: torch.Tensor, *, refit: bool
) -> torch.Tensor:
    """The squared error per row of a linear layer that keeps only the first neurons of an order, for every number.

    Args:
        moment (`torch.Tensor` of shape `[n, n]`):
            Of its inputs, float64: the covariance with refit, since the bias takes the means; else the second moment.
        readers (`torch.Tensor` of shape `[outputs, n]`, *optional*):
            The layer; `None` for the inputs themselves.
        order (`torch.Tensor` of shape `[n]`):
            Its inputs, kept first first.
        refit (`bool`):
            Whether the layer is refitted to the inputs that it keeps.

    Returns:
        `torch.Tensor` of shape `[n + 1]`: float64; entry `r` keeps `r` inputs.
    """
    moment = moment.index_select(0, order).index_select(1, order)
    readers = None if readers is None else readers.double().index_select(1, order)
    if refit:
        factor = ridge_cholesky(moment, RIDGE)
        return tails((factor if readers is None else readers @ factor).square().sum(dim=0))
    products = moment.diagonal().diag() if readers is None else moment * (readers.T @ readers)
    # The sum over all pairs of dropped inputs grows, from the last input on, by one row and column at a time.
    pairs = products.triu(1).sum(dim=1) * 2 + products.diagonal()
    return tails(pairs).clamp_min(0)


def tails(terms: torch.Tensor) -> torch.Tensor:
    """`[n] -> [n + 1]`: the sums of all terms from each position on, and 0."""
    return torch.cat((terms.flip(0).cumsum(0).flip(0), terms.new_zeros(1)))


def by_rank(scores: torch.Tensor) -> torch.Tensor:
    """The neurons of all heads, `[heads * head_dim]`: the best of every head first, then the second best of each."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    heads, head_dim = scores.shape
    return (order + head_dim * torch.arange(heads).unsqueeze(1)).T.flatten()


def per_channel(sums: Sums, name: str, readers: torch.Tensor) -> torch.Tensor:
    """The squared change of the outputs for an error of one per token in the squared length of what a layer adds."""
    return sums[name] / sums["sensitivity_images"].clamp_min(1) / len(readers)

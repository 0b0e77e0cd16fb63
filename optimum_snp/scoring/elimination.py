"""The order in which MLP neurons can go when the second layer is refitted: greedy backward elimination.

Source: our choice (docs/one-shot.md), the optimal brain surgeon's rule for whole neurons. With `C` the covariance of
the activations and `W` the second layer, refitted to the neurons that are left, removing neuron `m` and refitting
again raises the squared error of the block's output by

    |w_m|^2 / (C^-1)_mm

so the neuron with the least rise goes next. After it, `C^-1` and `G = W^T W` change by matrices of rank one and two.
These changes are gathered for a panel of removals and applied at once, as blocked Cholesky factorisations do: the
whole order of `M` neurons costs about `M^3` operations, most of them in matrix products.
"""

from dataclasses import dataclass

import torch

from ..calibration.moments import RIDGE, Sums, covariance_and_mean
from ..linear_algebra import ridge_cholesky


PANEL_SIZE = 64
# The share of the neurons that must be gone before the matrices are cut down to the others.
COMPACT_AT = 0.25
# From so many neurons on both matrices are kept in float32 between panels, which halves the time. Within a panel all
# is float64. On 1,536 neurons of a spectrum over eight decades the order was the same.
FLOAT32_FROM = 1024


@dataclass
class Elimination:
    """The order of removal of all neurons of a layer.

    Attributes:
        order (`torch.Tensor` of shape `[n]`): The neurons, first removed first.
        errors (`torch.Tensor` of shape `[n]`): The squared error per token, summed over outputs, once `order[: i + 1]`
            are removed and the rest is refitted.
    """

    order: torch.Tensor
    errors: torch.Tensor

    def scores(self) -> torch.Tensor:
        """One score per neuron, its place in the order: the `k` highest are what `k` neurons to keep are."""
        ranks = torch.empty(len(self.order), dtype=torch.float64)
        ranks[self.order] = torch.arange(len(self.order), dtype=torch.float64)
        return ranks


def backward_elimination(covariance: torch.Tensor, weight: torch.Tensor, ridge: float) -> Elimination:
    """Removes one neuron after the other, always the one whose loss the others make up for best.

    Args:
        covariance (`torch.Tensor` of shape `[n, n]`):
            Float64 covariance of the activations.
        weight (`torch.Tensor` of shape `[outputs, n]`):
            The layer that reads them.
        ridge (`float`):
            Added to the diagonal of the covariance, relative to its mean. Keeps neurons that are zero, constant or
            copies of others from dividing by zero; they go first.

    Returns:
        [`Elimination`]
    """
    inverse = torch.cholesky_inverse(ridge_cholesky(covariance, ridge))
    gram = weight.T.double() @ weight.double()
    if len(gram) >= FLOAT32_FROM:
        inverse, gram = inverse.float(), gram.float()
    alive, gone = torch.arange(len(covariance)), torch.zeros(len(covariance), dtype=torch.bool)
    order, rises = [], []
    while not gone.all():
        removed, panel_rises = _remove_panel(inverse, gram, gone, min(PANEL_SIZE, int((~gone).sum())))
        order.append(alive[removed])
        rises.append(panel_rises)
        gone[removed] = True
        if gone.sum() > COMPACT_AT * len(gone):  # copying is dear, and so are products with what is gone
            left = (~gone).nonzero().squeeze(1)
            inverse, gram = (matrix[left][:, left] for matrix in (inverse, gram))
            alive, gone = alive[left], gone[left]
    return Elimination(torch.cat(order), torch.cat(rises).cumsum(0))


def _remove_panel(
    inverse: torch.Tensor, gram: torch.Tensor, gone: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Removes `count` neurons: which, and the rise of each. Both matrices change in place."""
    size = len(inverse)
    # inverse' = inverse - U^T U;  gram' = gram - A^T B - B^T A. Rows, since those lie together in memory.
    u, a, b = (torch.zeros(count, size, dtype=torch.float64) for _ in range(3))
    inverse_diagonal, gram_diagonal = (matrix.diagonal().double().clone() for matrix in (inverse, gram))
    removed = torch.zeros(count, dtype=torch.long)
    rises = torch.zeros(count, dtype=torch.float64)
    gone = gone.clone()
    for step in range(count):
        rise = gram_diagonal.clamp_min(0) / inverse_diagonal
        # The diagonal of an inverse only falls; one that rounding has eaten up belongs to nothing that can be kept.
        rise = torch.where(inverse_diagonal > 0, rise, 0.0).masked_fill(gone, torch.inf)
        neuron = int(rise.argmin())
        removed[step], rises[step], gone[neuron] = neuron, rise[neuron], True
        pivot = inverse_diagonal[neuron].clamp_min(torch.finfo(torch.float64).tiny)
        row = inverse[neuron].double() - u[:step, neuron] @ u[:step]
        share = row / pivot  # how much of the neuron each other one takes over
        products = gram[neuron].double() - b[:step, neuron] @ a[:step] - a[:step, neuron] @ b[:step]
        u[step] = row / pivot.sqrt()
        a[step], b[step] = share, products - share * gram_diagonal[neuron] / 2
        inverse_diagonal = inverse_diagonal - u[step].square()
        gram_diagonal = gram_diagonal - 2 * a[step] * b[step]
    u, a, b = (rows.to(inverse.dtype) for rows in (u, a, b))
    inverse.addmm_(u.T, u, alpha=-1)
    gram.addmm_(torch.cat((a, b)).T, torch.cat((b, a)), alpha=-1)
    return removed, rises


def elimination_scores(sums: Sums, weight: torch.Tensor) -> torch.Tensor:
    """The score of every MLP neuron of a block: the error of the block's output once it and all before it are gone.

    So the highest scores are the neurons to keep, and sorted they are the losses of all sizes.

    Args:
        sums (`dict[str, torch.Tensor]`):
            The block's statistics; see [`optimum_snp.calibration.moments`].
        weight (`torch.Tensor` of shape `[outputs, n]`):
            The second layer.

    Returns:
        `torch.Tensor` of shape `[n]`: float64.
    """
    covariance, _ = covariance_and_mean(sums, "mlp_")
    elimination = backward_elimination(covariance, weight.detach().cpu().double(), RIDGE)
    scores = torch.empty_like(elimination.errors)
    scores[elimination.order] = elimination.errors
    return scores

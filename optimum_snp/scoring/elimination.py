"""The order in which MLP neurons can go when the second layer is refitted: greedy backward elimination.

Source: our choice (docs/one-shot.md), the optimal brain surgeon's rule for whole neurons. With `C` the covariance of
the activations and `W` the second layer, refitted to the neurons that are left, removing neuron `m` and refitting
again raises the squared error of the block's output by

    |w_m|^2 / (C^-1)_mm

so the neuron with the least rise goes next. After it, `C^-1` and the refitted `W` change by matrices of rank one.
These changes are gathered for a panel of removals and applied at once, as blocked Cholesky factorisations do. Within a
panel only the neurons with the least rises before it are followed step by step; afterwards all others are compared
with every step, and the panel ends before the first step at which one of them would have gone. So the order is the
greedy one.
The `M` neurons cost about `2 M^3` operations, most of them in the first factorisation and in matrix products.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..calibration.moments import RIDGE, Sums, covariance_and_mean
from ..linear_algebra import ridge_cholesky


PANEL_SIZE = 64
# Neurons followed within a panel, for every one that goes.
CANDIDATES_PER_REMOVAL = 4
# The share of the neurons that must be gone before the matrices are cut down to the others.
COMPACT_AT = 0.25
# From so many neurons on the inverse and the layer are kept in float32 between panels, which halves the time. Within a
# panel all is float64. On 1,536 neurons of a spectrum over eight decades the order was the same.
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
    dtype = torch.float32 if len(covariance) >= FLOAT32_FROM else torch.float64
    inverse = torch.cholesky_inverse(ridge_cholesky(covariance, ridge).to(dtype))
    readers = weight.mT.to(dtype, copy=True).contiguous()  # a row per neuron, so that some of them are read at once
    alive, gone = torch.arange(len(covariance)), torch.zeros(len(covariance), dtype=torch.bool)
    order, rises = [], []
    while not gone.all():
        removed, panel_rises = _remove_panel(inverse, readers, gone)
        order.append(alive[removed])
        rises.append(panel_rises)
        gone[removed] = True
        if gone.sum() > COMPACT_AT * len(gone):  # copying is dear, and so are products with what is gone
            left = (~gone).nonzero().squeeze(1)
            readers = readers.index_select(0, left)
            inverse = inverse.index_select(0, left).index_select(1, left)
            alive, gone = alive[left], gone[left]
    return Elimination(torch.cat(order), torch.cat(rises).cumsum(0))


def _remove_panel(
    inverse: torch.Tensor, readers: torch.Tensor, gone: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Removes a panel of neurons: which, and the rise of each. Both matrices change in place."""
    num_alive = int((~gone).sum())
    inverse_diagonal, energies = inverse.diagonal(), readers.square().sum(dim=1)
    rises = _rises(inverse_diagonal, energies).masked_fill(gone, torch.inf)
    num_candidates = min(CANDIDATES_PER_REMOVAL * PANEL_SIZE, num_alive)
    candidates = rises.topk(num_candidates, largest=False).indices.sort().values
    of_candidates = readers[candidates].double()
    places, rises, factor = _remove_candidates(
        inverse[candidates.unsqueeze(1), candidates].double(),
        of_candidates @ of_candidates.mT,
        min(PANEL_SIZE, num_alive),
    )
    removed = candidates[places]

    # Behind the panel the inverse is less u^T u, the readers less u^T z; row by row, the steps one after the other.
    u = torch.linalg.solve_triangular(factor, inverse[removed].double(), upper=False).to(inverse.dtype)
    z = torch.linalg.solve_triangular(factor, readers[removed].double(), upper=False).to(readers.dtype)
    gram = z @ z.mT
    products = z @ readers.mT - gram.tril(-1) @ u
    inverse_diagonals = inverse_diagonal - u.square().cumsum(dim=0)
    energies = energies + (u * (u * gram.diagonal().unsqueeze(1) - 2 * products)).cumsum(dim=0)
    is_other = ~gone
    is_other[candidates] = False
    others = _rises(inverse_diagonals, energies).masked_fill_(~is_other, torch.inf)
    is_wrong = (others[:-1] < rises[1:].unsqueeze(1)).any(dim=1)
    count = 1 + int(is_wrong.long().argmax()) if is_wrong.any() else len(removed)

    inverse.addmm_(u[:count].mT, u[:count], alpha=-1)
    readers.addmm_(u[:count].mT, z[:count], alpha=-1)
    return removed[:count], rises[:count]


def _remove_candidates(
    inverse: torch.Tensor, gram: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Removes `count` neurons one by one, given both matrices of the candidates alone.

    A step needs their diagonals and one row of each, so only those are brought up to the steps before. That is a dozen
    small operations, which take NumPy a quarter of the time that they take torch; so the rule of `_rises` stands here
    once more.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: Which, the rise of each, and the lower Cholesky factor of
        their part of the inverse, all in the order of removal.
    """
    inverse, gram = inverse.numpy(), gram.numpy()
    removed, rises = np.zeros(count, dtype=np.int64), np.zeros(count)
    # Behind a step the inverse is less `row row^T`, the gram less `share product^T + product share^T`.
    rows, pairs = np.zeros((count, len(inverse))), np.zeros((2, count, len(inverse)))
    inverse_diagonal, energies = inverse.diagonal().copy(), gram.diagonal().copy()
    for step in range(count):
        rise = np.divide(energies.clip(0), inverse_diagonal, out=np.zeros_like(energies), where=inverse_diagonal > 0)
        rise[removed[:step]] = np.inf
        neuron = rise.argmin()
        removed[step], rises[step] = neuron, rise[neuron]
        row = inverse[neuron] - np.einsum("s,sn->n", rows[:step, neuron], rows[:step])
        gram_row = gram[neuron] - np.einsum("ps,psn->n", pairs[::-1, :step, neuron], pairs[:, :step])
        # One that rounding has eaten up leaves nothing to take over: all that is divided by infinity is zero.
        root = np.sqrt(row[neuron]) if row[neuron] > 0 else np.inf
        rows[step] = row / root
        share, product = pairs[:, step]  # how much of the neuron each other one takes over
        share[:] = rows[step] / root
        product[:] = gram_row - share * (gram_row[neuron] / 2)
        inverse_diagonal -= rows[step] ** 2
        energies -= 2 * share * product
        rows[step, neuron] = root
    return torch.from_numpy(removed), torch.from_numpy(rises), torch.from_numpy(rows[:, removed]).mT


def _rises(inverse_diagonal: torch.Tensor, energies: torch.Tensor) -> torch.Tensor:
    """The rise of the error by the removal of each neuron."""
    # The diagonal of an inverse only falls; one that rounding has eaten up belongs to nothing that can be kept.
    return torch.where(inverse_diagonal > 0, energies.clamp_min(0) / inverse_diagonal, 0.0)


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

"""The criteria for whole attention heads.

For method "snp": the sum of the SNP scores of a head's query/key pairs and of its values, each as its share of the
block. The paper reports SNP combined with head pruning and does not say how heads are ranked; this is our choice.

The other methods refit the output layer to the heads that stay, and the heads go in the order of greedy backward
elimination, as MLP neurons do in [`optimum_snp.scoring.elimination`]: with `C` the covariance of what all heads put
out and `W` the output layer, refitted to the heads that are left, removing the head with neurons `h` and refitting
again raises the squared error of the block's output by

    tr( W_h ((C^-1)_hh)^-1 W_h^T )

Source: our choice. On three models trained on digits, removing one head of each block and refitting changes the logits
two to four times less (squared) by this order than by SNP's scores.
"""

import torch

from ..calibration.moments import RIDGE, Sums, covariance_and_mean
from ..linear_algebra import ridge_cholesky
from ..structure import Block
from .elimination import Elimination


def snp_head_scores(query_key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The score of every head of a block from the scores of its neurons.

    Args:
        query_key (`torch.Tensor` of shape `[heads, qk_head_dim]`):
            SNP's scores, not negative.
        value (`torch.Tensor` of shape `[heads, v_head_dim]`):
            The same of the values.

    Returns:
        `torch.Tensor` of shape `[heads]`: float64, summing to 2 unless all scores of a part are 0.
    """
    scores = torch.zeros(len(value), dtype=torch.float64)
    for neurons in (query_key, value):
        of_heads = neurons.double().sum(dim=1)
        scores += of_heads / of_heads.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return scores


def head_elimination(covariance: torch.Tensor, weight: torch.Tensor, num_heads: int, ridge: float) -> Elimination:
    """Removes one head after the other, always the one that the others make up for best.

    Args:
        covariance (`torch.Tensor` of shape `[heads * e, heads * e]`):
            Float64, of what the heads put out.
        weight (`torch.Tensor` of shape `[outputs, heads * e]`):
            The layer that reads them.
        num_heads (`int`):
            The number of heads.
        ridge (`float`):
            Added to the diagonal of the covariance, relative to its mean.

    Returns:
        [`Elimination`] of the heads.
    """
    inverse = torch.cholesky_inverse(ridge_cholesky(covariance, ridge))
    weight, left = weight.double(), list(range(num_heads))
    order, rises = [], []
    while left:
        # [heads, e, e] and [heads, outputs, e]
        pivots = inverse.unflatten(0, (len(left), -1)).unflatten(-1, (len(left), -1))
        pivots = pivots.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        readers = weight.unflatten(1, (len(left), -1)).transpose(0, 1)
        rise = (torch.linalg.solve(pivots, readers.mT) * readers.mT).sum(dim=(1, 2))
        place = int(rise.argmin())
        order.append(left.pop(place))
        rises.append(rise[place].clamp_min(0))

        size = pivots.shape[-1]
        gone = torch.zeros(len(inverse), dtype=torch.bool)
        gone[place * size : (place + 1) * size] = True
        # How much of the head each neuron that stays takes over.
        shares = torch.linalg.solve(pivots[place], inverse[gone][:, ~gone])
        weight = weight[:, ~gone] - weight[:, gone] @ shares
        inverse = inverse[~gone][:, ~gone] - inverse[~gone][:, gone] @ shares
    return Elimination(torch.tensor(order), torch.stack(rises).cumsum(0))


def eliminate_heads(block: Block, output: torch.Tensor, sums: Sums) -> Elimination:
    """[`head_elimination`] of one block.

    Args:
        block ([`Block`]):
            The block.
        output (`torch.Tensor` of shape `[width, heads * v_head_dim]`):
            The weight of its output layer.
        sums (`dict[str, torch.Tensor]`):
            The block's statistics; see [`optimum_snp.calibration.moments`].
    """
    covariance, _ = covariance_and_mean(sums, "context_")
    return head_elimination(covariance, output.detach().cpu(), block.num_attention_heads, RIDGE)

"""The criteria for queries and keys under rotary positions, whose neurons come in pairs, `i` and `i + d / 2`.

A position turns the two neurons of a pair by an angle that only this pair has, so a pair stays or goes as a whole.
What can be changed in one that stays, with scores still depending on relative positions alone, is its length and its
phase: a number `a` of which each query's pair `q` becomes `a q + b J q`, with `J` a quarter turn, and a number `b`.

For method "snp" a pair scores what its two neurons score together. The closed-form methods let pairs go in the order
of greedy backward elimination, as heads do in [`optimum_snp.scoring.heads`]. Of the scores `Q X K^T` with `X` the sum
over all pairs of `a I + b J`, the squared error against `Q K^T` over the calibration images is quadratic in all `a`
and `b`: that of a regression whose covariance is [`pair_gram`], with the target 1 for every `a` and 0 for every `b`.
The moments are those of turned queries and keys, so that they, and with them the energy of every pair, are means over
all relative positions.

Source: our choice.
"""

import torch

from ..calibration.moments import RIDGE, Sums
from .heads import head_elimination


# Of the two neurons of a pair, as rows: themselves, and turned by a quarter.
_TURNS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]]], dtype=torch.float64)


def pair_scores(scores: torch.Tensor) -> torch.Tensor:
    """From the scores of neurons `[heads, d]` to those of their pairs; both neurons of one get its score."""
    first, second = scores.chunk(2, dim=-1)
    return (first + second).repeat(1, 2)


def pair_gram(query_moment: torch.Tensor, key_moment: torch.Tensor) -> torch.Tensor:
    """How the contributions of all pairs of one head to the scores agree over the calibration images.

    Args:
        query_moment, key_moment (`torch.Tensor` of shape `[d, d]`):
            Of turned queries and keys, float64.

    Returns:
        `torch.Tensor` of shape `[d, d]`: `tr(D_i^T G_q D_j G_k)`, where `D` runs over all pairs, for each of them as
        it is (even positions) and turned by a quarter (odd positions).
    """
    queries, keys = (moment.unflatten(0, (2, -1)).unflatten(-1, (2, -1)) for moment in (query_moment, key_moment))
    turned = torch.einsum("auv,uixj,bxw->aivbjw", _TURNS, queries, _TURNS)
    return torch.einsum("aivbjw,wjvi->iajb", turned, keys).flatten(0, 1).flatten(1)


def pair_target(head_dim: int) -> torch.Tensor:
    """What the scores are made of in the basis of [`pair_gram`], `[1, d]`: every pair once, as it is."""
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(1, head_dim // 2)


def elimination_pair_scores(sums: Sums) -> torch.Tensor:
    """The score of every query/key pair of a block: its place in the order of removal.

    Args:
        sums (`dict[str, torch.Tensor]`):
            The block's statistics; see [`optimum_snp.calibration.moments`].

    Returns:
        `torch.Tensor` of shape `[heads, d]`: float64; both neurons of a pair have its score.
    """
    ranks = []
    for moments in zip(sums["query_moment"], sums["key_moment"], strict=True):
        gram = pair_gram(*moments)
        ranks.append(head_elimination(gram, pair_target(len(gram)), len(gram) // 2, RIDGE).scores())
    return torch.stack(ranks).repeat(1, 2)

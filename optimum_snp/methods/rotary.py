"""What sizes of queries and keys lose under rotary positions, whose neurons go in pairs."""

import torch

from ..calibration.moments import Sums
from ..reshaping.refit import refit_pairs


def lose_pairs(sums: Sums, scores: torch.Tensor, *, refit: bool) -> torch.Tensor:
    """The losses of a block's queries and keys for every size, `[qk_head_dim + 1]`; infinite for odd ones.

    Pruning makes scores `Q X K^T` of `Q K^T`, as if the turned queries had changed by `Q (X - I)`.

    Args:
        sums (`dict[str, torch.Tensor]`):
            The block's statistics, with sensitivities.
        scores (`torch.Tensor` of shape `[heads, qk_head_dim]`):
            The same for both neurons of a pair.
        refit (`bool`):
            Whether the pairs that stay are refitted.
    """
    head_dim = scores.shape[1]
    sensitivity = sums["query_sensitivity"] / sums["sensitivity_images"].clamp_min(1)
    query_moment = sums["query_moment"] / sums["query_num_tokens"].clamp_min(1)
    losses = torch.zeros(head_dim // 2 + 1, dtype=torch.float64)
    for head, of_head in enumerate(scores):
        order = of_head[: head_dim // 2].argsort(descending=True, stable=True)
        for count in range(head_dim // 2):
            firsts = order[:count].sort().values
            kept = torch.cat((firsts, firsts + head_dim // 2))
            change = -torch.eye(head_dim, dtype=torch.float64)
            if count:
                moments = sums["query_moment"][head], sums["key_moment"][head]
                mixing = refit_pairs(*moments, kept.tolist()) if refit else torch.eye(2 * count, dtype=torch.float64)
                change[kept.unsqueeze(1), kept] += mixing
            losses[count] += ((change.T @ query_moment[head] @ change) * sensitivity[head]).sum()
    # The refit follows the scores, the loss what the outputs make of them: see `SNPRefit`.
    losses = losses.flip(0).cummax(0).values.flip(0)
    of_sizes = torch.full((head_dim + 1,), torch.inf, dtype=torch.float64)
    of_sizes[::2] = losses
    return of_sizes

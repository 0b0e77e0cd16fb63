"""SNP's criterion for query and key neurons: how well a pair aligns with the leading directions of the scores.

Source: SNP (arXiv 2404.11630), section 3. For one image and head with `A = Q K^T = sum_j s_j u_j v_j^T`,
neuron `i` (column `i` of `Q` and of `K`) scores

    w_i = sum_{j <= gamma} | cos(s_j u_j v_j^T, q_i k_i^T) |

averaged over the images. The cosines come from [`optimum_snp.calibration.attention_statistics`].
"""

import torch


def query_key_scores(
    statistics: dict[str, torch.Tensor],
    num_singular_directions: int | float | None,
    singular_weighting: str,
) -> torch.Tensor:
    """The score of every query/key neuron pair of a block, averaged over the calibration images.

    Args:
        statistics (`dict[str, torch.Tensor]`):
            Sums of [`optimum_snp.calibration.attention_statistics.attention_score_statistics`].
        num_singular_directions (`int`, `float` or `None`):
            Gamma: that many leading directions; a float is the share of the spectral energy (squared singular values,
            mean over the images) that they must hold, head by head; `None` takes all. The paper does not state it;
            that the energy is taken from the mean spectrum is our choice, so that one pass serves every gamma.
        singular_weighting (`str`):
            `"uniform"` as in the paper, or `"energy"` to weight each direction by its singular value (our choice).

    Returns:
        `torch.Tensor` of shape `[heads, d]`: float64; pairs with the least score are pruned first.
    """
    name = "weighted_cosines" if singular_weighting == "energy" else "cosines"
    cosines = statistics[name] / statistics["num_maps"]
    used = _used_directions(statistics["energies"], num_singular_directions)
    return (cosines * used.unsqueeze(-1)).sum(-2)


def _used_directions(energies: torch.Tensor, num_singular_directions: int | float | None) -> torch.Tensor:
    """Which directions count, `[heads, d]`, as ones and zeros."""
    num_directions = energies.shape[-1]
    if num_singular_directions is None:
        return torch.ones_like(energies)
    if isinstance(num_singular_directions, int):
        return (torch.arange(num_directions) < num_singular_directions).expand_as(energies).to(energies)
    # The smallest number of directions that holds the share: those before which the share is not reached yet.
    total = energies.sum(-1, keepdim=True)
    before = energies.cumsum(-1) - energies
    return (before < num_singular_directions * total).to(energies)

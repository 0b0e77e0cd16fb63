"""SNP's criterion for value and MLP neurons: how little a neuron repeats what others compute.

Source: SNP (arXiv 2404.11630), section 3. Data-free, over the rows of a weight matrix:

    w_i = sum_l ( 1 - | cos(W_i, W_l) | )

For values the sum runs over the neurons of all heads, for the MLP over all neurons of its first layer.
"""

import torch


def redundancy_scores(rows: torch.Tensor) -> torch.Tensor:
    """The score of every row: low for rows that point where many others point.

    Args:
        rows (`torch.Tensor` of shape `[n, inputs]`):
            Weights, one row per neuron.

    Returns:
        `torch.Tensor` of shape `[n]`: float64. A row of zeros scores 0, so that it is pruned first (our choice: its
        cosine is not defined).
    """
    rows = rows.detach().cpu().double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit_rows = torch.where(norms > 0, rows / norms, 0.0)
    scores = (1 - (unit_rows @ unit_rows.T).abs()).sum(dim=1)
    return torch.where(norms.squeeze(1) > 0, scores, 0.0)

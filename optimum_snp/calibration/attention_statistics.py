"""What calibration keeps of queries and keys: how every neuron aligns with every singular direction of the scores.

For one image and head with `A = Q K^T = sum_j s_j u_j v_j^T`, neuron `i` contributes `q_i k_i^T` to `A`. Both that and
`s_j u_j v_j^T` have rank one, so the cosine between them is `(u_j.q_i)(v_j.k_i) / (|q_i||k_i|)`; and `A` has the
singular values of `R_q R_k^T`, the `d x d` product of the triangular factors of `Q` and `K`. No matrix of the size of
the attention map is ever built.

The cosines are kept for every pair of direction and neuron, so that every choice of `num_singular_directions` and
`singular_weighting` is computed from the same statistics.
"""

import torch

from ..linear_algebra import one_thread


def attention_score_statistics(query: torch.Tensor, key: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over attention maps of the alignment of each neuron with each singular direction of the scores.

    Padding tokens and masks play no part: the scores before softmax are scored, all tokens alike.

    Args:
        query, key (`torch.Tensor` of shape `[maps, heads, tokens, d]`):
            Activations with their biases, before scaling.

    Returns:
        `dict[str, torch.Tensor]`, float64 on the CPU, summed over `maps`:
            - `cosines` `[heads, d, d]`: |cos| of direction `j` (row, by falling singular value), neuron `i` (column)
            - `weighted_cosines` `[heads, d, d]`: the same times the singular value of direction `j`
            - `energies` `[heads, d]`: squared singular values
            - `num_maps` `[]`: number of attention maps
    """
    query, key = _float64(query), _float64(key)
    head_dim = query.shape[-1]
    with one_thread():
        query_factor = torch.linalg.qr(query, mode="r").R  # [maps, heads, min(tokens, d), d]
        key_factor = torch.linalg.qr(key, mode="r").R
        left, singular_values, right = torch.linalg.svd(query_factor @ key_factor.mT, full_matrices=False)

    # (u_j . q_i)(v_j . k_i): the orthogonal factors of Q and K cancel out.
    alignment = (left.mT @ query_factor) * (right @ key_factor)
    norms = torch.linalg.vector_norm(query, dim=-2) * torch.linalg.vector_norm(key, dim=-2)
    # A neuron that is zero on every token adds nothing to the scores: its cosine counts as 0.
    cosines = (alignment.abs() / norms.unsqueeze(-2)).nan_to_num(0.0, 0.0, 0.0)
    # Directions beyond the rank are arbitrary and carry nothing; without this they would add noise.
    threshold = singular_values[..., :1] * max(query.shape[-2:]) * torch.finfo(torch.float64).eps
    cosines = torch.where((singular_values > threshold).unsqueeze(-1), cosines, 0.0)

    missing = head_dim - singular_values.shape[-1]  # fewer tokens than neurons: fewer directions
    return {
        "cosines": _pad_rows(cosines.sum(0), missing),
        "weighted_cosines": _pad_rows((cosines * singular_values.unsqueeze(-1)).sum(0), missing),
        "energies": torch.nn.functional.pad(singular_values.square().sum(0), (0, missing)).cpu(),
        "num_maps": torch.tensor(float(query.shape[0]), dtype=torch.float64),
    }


def _pad_rows(matrix: torch.Tensor, missing: int) -> torch.Tensor:
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)).cpu()


def _float64(tensor: torch.Tensor) -> torch.Tensor:
    # Apple's GPUs have no float64.
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()

"""What calibration keeps of queries and keys: how every neuron aligns with every singular direction of the scores.

For one image and head with `A = Q K^T = sum_j s_j u_j v_j^T`, neuron `i` contributes `q_i k_i^T` to `A`. Both that and
`s_j u_j v_j^T` have rank one, so the cosine between them is `(u_j.q_i)(v_j.k_i) / (|q_i||k_i|)`. With the triangular
factor `R` of `Q` and `G = K^T K`, the `d x d` matrix `R G R^T` has the eigenvalues `s_j^2`, and its eigenvectors `U`
give `u_j.q_i = (U^T R)_ji` and `v_j.k_i = (U^T R G)_ji / s_j`. No matrix of the size of the attention map is ever
built, and one symmetric eigenproblem takes the place of an SVD and a second factorisation.

The cosines are kept for every pair of direction and neuron, so that every choice of `num_singular_directions` and
`singular_weighting` is computed from the same statistics.
"""

import torch

from ..linear_algebra import double, parallel_map


# Singular values below this share of the largest count as zero. Activations are known to single precision, so what is
# below is their rounding; and `s_j^2`, which is what is computed, is exact to double precision of the largest.
RANK_TOLERANCE = 1e-7


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
    head_dim = query.shape[-1]
    if query.device.type == "cuda":
        cosines, singular_values = _directions(query, key)
    else:  # LAPACK takes small matrices one by one, and fastest on one thread each: every core has its own heads.
        heads = zip(query.split(1, dim=1), key.split(1, dim=1), strict=True)
        found = parallel_map(lambda states: _directions(*states), heads)
        cosines, singular_values = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))

    missing = head_dim - singular_values.shape[-1]  # fewer tokens than neurons: fewer directions
    return {
        "cosines": _pad_rows(cosines.sum(0), missing),
        "weighted_cosines": _pad_rows((cosines * singular_values.unsqueeze(-1)).sum(0), missing),
        "energies": torch.nn.functional.pad(singular_values.square().sum(0), (0, missing)).cpu(),
        "num_maps": torch.tensor(float(query.shape[0]), dtype=torch.float64),
    }


def _directions(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From `[..., tokens, d]` each to the cosines `[..., directions, d]` and the singular values, falling."""
    query, key = double(query), double(key)
    factor = torch.linalg.qr(query, mode="r").R  # [maps, min(tokens, d), d]
    gram = key.mT @ key
    squares, vectors = _eigenpairs(factor @ gram @ factor.mT)
    singular_values = squares.flip(-1).clamp_min(0).sqrt()
    left = vectors.flip(-1).mT @ factor  # u_j . q_i
    # Directions beyond the rank are arbitrary and carry nothing; without this they would add noise.
    found = singular_values > RANK_TOLERANCE * singular_values[..., :1]
    right = (left @ gram) / torch.where(found, singular_values, 1.0).unsqueeze(-1)  # v_j . k_i
    norms = torch.linalg.vector_norm(factor, dim=-2) * gram.diagonal(dim1=-2, dim2=-1).sqrt()  # |q_i| |k_i|
    # A neuron that is zero on every token adds nothing to the scores: its cosine counts as 0.
    cosines = ((left * right).abs() / norms.unsqueeze(-2)).nan_to_num(0.0, 0.0, 0.0)
    return torch.where(found.unsqueeze(-1), cosines, 0.0), torch.where(found, singular_values, 0.0)


def _eigenpairs(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of `[maps, heads, n, n]`. A GPU solves them one after the other, each as slowly as a core of the CPU does."""
    if matrices.device.type != "cuda":
        return torch.linalg.eigh(matrices)
    heads = matrices.cpu().split(1, dim=1)
    found = parallel_map(torch.linalg.eigh, heads, max_workers=len(heads))
    values, vectors = (torch.cat(parts, dim=1).to(matrices.device) for parts in zip(*found, strict=True))
    return values, vectors


def _pad_rows(matrix: torch.Tensor, missing: int) -> torch.Tensor:
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)).cpu()

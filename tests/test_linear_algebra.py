"""Ridge and matrix roots are finite and right for every moment matrix."""

import pytest
import torch

from optimum_snp.linear_algebra import parallel_map, ridge_cholesky, root_and_inverse


def moment(rank, size=6):
    rows = torch.randn(rank, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return rows.T @ rows


INDEFINITE = moment(2) - 1e-3 * torch.eye(6, dtype=torch.float64)


@pytest.mark.parametrize("matrix", [moment(20), moment(2), torch.zeros(6, 6).double(), INDEFINITE])
def test_every_moment_has_a_cholesky_factor(matrix):
    factor = ridge_cholesky(matrix, 1e-6)
    assert torch.isfinite(factor).all()
    assert torch.dist(factor @ factor.T, matrix) < 0.01 or not matrix.any()


def test_parallel_map_keeps_the_order_and_the_threads():
    threads = torch.get_num_threads()
    assert parallel_map(lambda item: (item, torch.get_num_threads()), range(5)) == [(item, 1) for item in range(5)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("rank", [2, 20])
def test_roots(rank):
    matrix = moment(rank)
    root, inverse = root_and_inverse(matrix)
    torch.testing.assert_close(root @ root, matrix, rtol=0, atol=1e-6)
    torch.testing.assert_close(root @ inverse, torch.eye(6).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("matrix", [torch.zeros(6, 6).double(), INDEFINITE])
def test_roots_of_anything_are_finite(matrix):
    assert all(torch.isfinite(part).all() for part in root_and_inverse(matrix))

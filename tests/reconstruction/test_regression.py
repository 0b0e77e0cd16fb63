import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_snp.reconstruction.regression import RegressionSums, solve


ONE = torch.ones(())  # rows that all count alike


def direct_solution(inputs, targets, weight, ridge, *, with_bias, row_weights=None):
    """Ridge regression by least squares on all rows at once, the ridge as further rows."""
    inputs, targets = inputs.double(), targets.double()
    row_weights = torch.ones(len(inputs)) if row_weights is None else row_weights
    shares = (row_weights.double() / row_weights.double().sum()).unsqueeze(1)
    mean, target_mean = (shares * inputs).sum(0), (shares * targets).sum(0)
    if not with_bias:
        mean, target_mean = torch.zeros_like(mean), torch.zeros_like(target_mean)
    inputs, targets = shares.sqrt() * (inputs - mean), shares.sqrt() * (targets - target_mean)
    strength = (ridge * inputs.square().sum() / inputs.shape[1]).sqrt()
    rows = torch.cat((inputs, strength * torch.eye(inputs.shape[1], dtype=torch.float64)))
    solution = torch.linalg.lstsq(rows, torch.cat((targets, strength * weight.double().T))).solution.T
    return solution, target_mean - solution @ mean


def rows(count, num_inputs, num_outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, num_inputs, generator=generator) * torch.linspace(0.1, 3, num_inputs) + 5
    targets = torch.randn(count, num_outputs, generator=generator) - 2
    return inputs, targets, torch.randn(num_outputs, num_inputs, generator=generator)


@pytest.mark.parametrize("with_bias", [True, False])
@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(3, 60),
    num_inputs=st.integers(1, 12),
    num_outputs=st.integers(1, 5),
    chunk=st.integers(1, 20),
    ridge=st.sampled_from([1e-3, 0.1, 1.0]),
    weighted=st.booleans(),
)
def test_solution_is_that_of_all_rows_at_once(with_bias, count, num_inputs, num_outputs, chunk, ridge, weighted):
    tokens = chunk if weighted else 1
    inputs, targets, weight = rows(count * tokens, num_inputs, num_outputs)
    weights = torch.linspace(0.5, 40, tokens) if weighted else ONE
    inputs_of_images, targets_of_images = inputs.view(count, tokens, -1), targets.view(count, tokens, -1)
    chunks = zip(
        inputs_of_images.split(chunk), targets_of_images.split(chunk), itertools.repeat(weights), strict=False
    )
    sums = RegressionSums.of_chunks(chunks, num_inputs, num_outputs)
    bias = torch.zeros(num_outputs) if with_bias else None
    found_weight, found_bias = solve(sums, weight, bias, ridge)
    row_weights = weights.repeat(count) if weighted else None
    expected_weight, expected_bias = direct_solution(
        inputs, targets, weight, ridge, with_bias=with_bias, row_weights=row_weights
    )
    assert torch.allclose(found_weight, expected_weight, rtol=1e-3, atol=1e-3)
    if with_bias:
        assert torch.allclose(found_bias, expected_bias, rtol=1e-3, atol=1e-2)
    else:
        assert found_bias is None


@given(order=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_sums_are_the_same_to_the_bit_in_any_order(order):
    inputs, targets, _ = rows(50, 6, 3)
    chunks = [(*chunk, ONE) for chunk in zip(inputs.split(10), targets.split(10), strict=True)]
    # The first chunk says what is rounded to, so it stays the first.
    others = [chunks[index] for index in order if index != 0]
    first = RegressionSums.of_chunks(chunks, 6, 3)
    second = RegressionSums.of_chunks([chunks[0], *others], 6, 3)
    for name in ("weight", "input_sum", "target_sum", "moment", "cross"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_sums_are_right():
    inputs, targets, _ = rows(50, 6, 3)
    sums = RegressionSums.of_chunks([(inputs, targets, ONE)], 6, 3)
    inputs, targets = inputs.double(), targets.double()
    assert sums.weight.item() == 50
    assert torch.allclose(sums.moment, inputs.T @ inputs, rtol=1e-6)
    assert torch.allclose(sums.cross, targets.T @ inputs, rtol=1e-5)
    assert torch.allclose(sums.target_sum, targets.sum(0), rtol=1e-6)


def test_nothing_missing_changes_nothing():
    inputs, _, weight = rows(40, 6, 3)
    targets = inputs @ weight.T + 1
    sums = RegressionSums.of_chunks([(inputs, targets, ONE)], 6, 3)
    found, bias = solve(sums, weight, torch.ones(3), 0.1)
    assert torch.allclose(found.float(), weight, atol=1e-5)
    assert torch.allclose(bias.float(), torch.ones(3), atol=1e-4)


def test_constant_inputs_give_finite_weights():
    sums = RegressionSums.of_chunks([(torch.ones(8, 4), torch.randn(8, 2), ONE)], 4, 2)
    weight, bias = solve(sums, torch.zeros(2, 4), torch.zeros(2), 0.1)
    assert torch.isfinite(weight).all() and torch.isfinite(bias).all()


def test_sums_are_in_float32_where_networks_are_not():
    inputs, targets, _ = rows(50, 6, 3)
    expected = RegressionSums.of_chunks([(inputs, targets, ONE)], 6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = RegressionSums.of_chunks([(inputs, targets, ONE)], 6, 3)
    assert torch.equal(found.moment, expected.moment) and torch.equal(found.cross, expected.cross)


def test_inputs_that_do_not_vary_change_the_bias_alone():
    _, _, weight = rows(1, 8, 3)
    inputs, targets = torch.full((7, 8), 3.3), torch.linspace(1, 2, 3).expand(7, 3)
    chunks = [(*chunk, ONE) for chunk in zip(inputs.split(2), targets.split(2), strict=True)]
    sums = RegressionSums.of_chunks(chunks, 8, 3)
    found_weight, found_bias = solve(sums, weight, torch.zeros(3), 0.1)
    torch.testing.assert_close(found_weight, weight.double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(inputs[0].double() @ found_weight.T + found_bias, targets[0].double())

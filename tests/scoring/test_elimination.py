"""The order of removal is that of a plain loop that refits from scratch after every removal."""

import pytest
import torch

from optimum_snp.calibration import moments
from optimum_snp.losses import nested_errors
from optimum_snp.scoring import elimination
from optimum_snp.scoring.elimination import backward_elimination


RIDGE = 1e-4


def problem(size=20, outputs=7, samples=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(samples, size, generator=generator, dtype=torch.float64)
    activations = activations @ torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.cov(activations.T, correction=0), torch.randn(outputs, size, generator=generator, dtype=torch.float64)


def error_of(covariance, weight, kept):
    """The squared error of the best weights on `kept`, with the ridge on the whole covariance."""
    covariance = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    total = torch.trace(weight @ covariance @ weight.T)
    if not kept:
        return total
    crossed = weight @ covariance[:, kept]
    return total - torch.trace(crossed @ torch.linalg.solve(covariance[kept][:, kept], crossed.T))


@pytest.mark.parametrize("panel_size", [1, 3, 64])
def test_always_removes_the_neuron_that_costs_least(monkeypatch, panel_size):
    monkeypatch.setattr(elimination, "PANEL_SIZE", panel_size)
    covariance, weight = problem()
    kept, order, errors = list(range(20)), [], []
    while kept:
        trials = {neuron: error_of(covariance, weight, [k for k in kept if k != neuron]) for neuron in kept}
        neuron = min(trials, key=trials.get)
        kept.remove(neuron)
        order.append(neuron)
        errors.append(trials[neuron])
    result = backward_elimination(covariance, weight, RIDGE)
    assert result.order.tolist() == order
    torch.testing.assert_close(result.errors, torch.stack(errors), rtol=1e-8, atol=1e-8 * float(errors[-1]))


def test_dead_and_copied_neurons_go_first():
    covariance, weight = problem()
    covariance[4] = covariance[:, 4] = 0  # dead
    covariance[9], covariance[:, 9] = covariance[2], covariance[:, 2].clone()  # a copy of 2
    covariance[9, 9] = covariance[2, 2]
    result = backward_elimination(covariance, weight, RIDGE)
    first = set(result.order[:2].tolist())
    assert 4 in first and first & {2, 9}
    assert torch.isfinite(result.errors).all()


def test_scores_give_every_size():
    covariance, weight = problem()
    result = backward_elimination(covariance, weight, RIDGE)
    highest = result.scores().sort(descending=True).indices
    for size in (1, 5, 19):
        assert set(highest[:size].tolist()) == set(result.order[-size:].tolist())


def test_float32_between_panels_finds_the_same_order(monkeypatch):
    covariance, weight = problem(size=300, outputs=40, samples=150)  # singular: fewer samples than neurons
    exact = backward_elimination(covariance, weight, moments.RIDGE)
    monkeypatch.setattr(elimination, "FLOAT32_FROM", 300)
    rounded = backward_elimination(covariance, weight, moments.RIDGE)
    assert not torch.equal(rounded.errors, exact.errors)
    for size in (30, 100, 200):
        kept, expected = (set(found.order[-size:].tolist()) for found in (rounded, exact))
        assert len(kept & expected) >= 0.98 * size
    torch.testing.assert_close(rounded.errors[100:], exact.errors[100:], rtol=1e-3, atol=0)


def test_sorted_scores_are_the_losses_of_all_sizes():
    covariance, weight = problem()
    sums = {"mlp_moment": 9 * covariance, "mlp_sum": torch.zeros(20), "mlp_num_tokens": torch.tensor(9.0).double()}
    scores = elimination.elimination_scores(sums, weight)
    errors = nested_errors(covariance, weight, scores.argsort(descending=True), refit=True)
    torch.testing.assert_close(scores.sort(descending=True).values, errors[:-1])


@pytest.mark.parametrize("covariance", [torch.zeros(6, 6), torch.ones(6, 6), -1e-3 * torch.eye(6) + torch.ones(6, 6)])
def test_any_moment_gives_an_order(covariance):
    result = backward_elimination(covariance.double(), torch.randn(3, 6, dtype=torch.float64), RIDGE)
    assert sorted(result.order.tolist()) == list(range(6))
    assert torch.isfinite(result.errors).all()

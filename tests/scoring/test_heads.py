"""Scores of heads, against regressions on raw activations and by hand."""

import pytest
import torch

from optimum_snp import SNPConfig
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.methods import METHODS
from optimum_snp.scoring.heads import head_elimination, snp_head_scores


def error_of(rows, weight, kept):
    """The squared error per row of the layer refitted to some of its inputs, by QR on the rows."""
    targets = rows @ weight.T
    targets = targets - targets.mean(0)
    inputs = (rows - rows.mean(0))[:, kept]
    solution = torch.linalg.lstsq(inputs, targets).solution if kept else torch.zeros(0, len(weight)).double()
    return (inputs @ solution - targets).square().sum().item() / len(rows)


@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 4), (3, 5), (5, 2), (6, 1)])
def test_elimination_is_greedy_and_its_errors_are_those_of_refits(num_heads, head_dim):
    torch.manual_seed(num_heads)
    size = num_heads * head_dim
    rows = torch.randn(400, size, dtype=torch.float64) @ torch.randn(size, size, dtype=torch.float64) + 2
    weight = torch.randn(7, size, dtype=torch.float64)
    found = head_elimination(torch.cov(rows.T, correction=0), weight, num_heads, ridge=1e-12)

    def neurons(heads):
        return [head * head_dim + neuron for head in heads for neuron in range(head_dim)]

    left = list(range(num_heads))
    for head, error in zip(found.order.tolist(), found.errors.tolist(), strict=True):
        errors = {one: error_of(rows, weight, neurons([other for other in left if other != one])) for one in left}
        assert head == min(errors, key=errors.get)
        assert error == pytest.approx(errors[head], rel=1e-6)
        left.remove(head)


def test_snp_scores_are_shares_of_both_parts():
    query_key = torch.tensor([[1.0, 1.0], [2.0, 4.0]])
    value = torch.tensor([[3.0], [1.0]])
    torch.testing.assert_close(snp_head_scores(query_key, value), torch.tensor([0.25 + 0.75, 0.75 + 0.25]).double())
    torch.testing.assert_close(snp_head_scores(torch.zeros(2, 3), value), torch.tensor([0.75, 0.25]).double())


@pytest.mark.parametrize("method", ["snp", "snp-refit", "projection"])
def test_a_head_that_does_nothing_goes_first(source, pixel_values, method):
    attention = source.base_model.layers[1].attention
    with torch.no_grad():
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
            layer.weight[24:36] = 0
            layer.bias[24:36] = 0
    model = convert(source)
    statistics = collect_statistics(model, pixel_values, num_samples=6)
    scores = METHODS[method].score_heads(model, statistics, SNPConfig(method=method))
    assert scores[1].argmin() == 2


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_a_head_that_nothing_reads_goes_first(source, pixel_values, method):
    with torch.no_grad():
        source.base_model.layers[0].attention.o_proj.weight[:, 12:24] = 0
    model = convert(source)
    statistics = collect_statistics(model, pixel_values, num_samples=6)
    scores = METHODS[method].score_heads(model, statistics, SNPConfig(method=method))
    assert scores[0].argmin() == 1

"""Losses against direct computation, and against what pruning really does to the logits."""

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration.moments import RIDGE
from optimum_snp.losses import nested_errors
from optimum_snp.methods import method_of
from optimum_snp.plan.sizes import kept_size
from tests.helpers import build_source


METHODS = ("snp", "snp-refit", "projection")


def moment_of(size, seed=0):
    rows = torch.randn(50, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ rows / 50


@pytest.mark.parametrize("refit", [True, False])
def test_nested_errors_are_those_of_every_selection(refit):
    moment, readers, order = moment_of(8), torch.randn(5, 8, dtype=torch.float64), torch.randperm(8)
    errors = nested_errors(moment, readers, order, refit=refit)
    regular = moment + RIDGE * moment.diagonal().mean() * torch.eye(8).double() * refit
    for size in range(9):
        kept, gone = order[:size], order[size:]
        rest = regular[gone][:, gone]
        if refit:  # what the kept inputs do not explain of the others
            explained = torch.linalg.solve(regular[kept][:, kept], regular[kept][:, gone]) if size else 0
            rest = rest - (regular[gone][:, kept] @ explained if size else 0)
        expected = (readers[:, gone] @ rest @ readers[:, gone].T).trace()
        torch.testing.assert_close(errors[size], expected, rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def calibrated(trained, digits):
    pruner = SNPPruner.from_pretrained(trained)
    pruner.calibrate(digits[0][:64])
    return pruner


def losses_of(pruner, method):
    config = SNPConfig(method=method)
    scores = method_of(config).score(pruner.model, pruner.statistics, config)
    return method_of(config).loss(pruner.model, pruner.statistics, scores)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_removed_costs_nothing_and_more_costs_more(calibrated, method):
    losses = losses_of(calibrated, method)
    for curve in (*losses.query_key, *losses.value, *losses.mlp, *losses.widths):
        assert curve[-1] == 0
        assert (curve >= 0).all()
        if method != "snp":  # errors of neurons that are left without a refit may cancel out
            assert (curve[1:] <= curve[:-1] * 1.05 + 1e-9).all()


def test_the_loss_of_an_mlp_is_its_error_by_its_sensitivity(calibrated):
    """Of the second MLP without refit, from the moments of the neurons that go."""
    losses = losses_of(calibrated, "snp")
    sums, mlp = calibrated.statistics.blocks[1], calibrated.model.base_model.layers[1].mlp
    config = SNPConfig(method="snp")
    scores = method_of(config).score(calibrated.model, calibrated.statistics, config).mlp[1]
    gone = scores.argsort(descending=True)[100:]
    weight = mlp.fc2.weight.detach().double()[:, gone]
    error = (weight @ (sums["mlp_moment"] / sums["mlp_num_tokens"])[gone][:, gone] @ weight.T).trace()
    sensitivity = sums["mlp_sensitivity"] / sums["sensitivity_images"] / len(weight)
    torch.testing.assert_close(losses.mlp[1][100], error * sensitivity)


@pytest.mark.parametrize("method", METHODS)
def test_they_rank_parts_as_pruning_them_does(calibrated, digits, method):
    """Single parts of single blocks at two shares, on images that calibration has not seen."""
    images = digits[0][-300:]
    losses = losses_of(calibrated, method)
    curves = {"qk_sparsity": losses.query_key, "v_sparsity": losses.value, "mlp_sparsity": losses.mlp}

    def logits(model):
        with torch.inference_mode():
            found = model(images).logits
        return found - found.mean(-1, keepdim=True)

    dense = logits(calibrated.model)
    predicted, actual = [], []
    for part, curve in curves.items():
        for block in (0, 2, 3):
            for share in (0.5, 0.75):
                pruner = calibrated.copy()
                shares = [share if index == block else 0.0 for index in range(4)]
                change = logits(pruner.prune(SNPConfig(method=method, **{part: shares}))) - dense
                predicted.append(curve[block][kept_size(len(curve[block]) - 1, share, 1)])
                actual.append(change.square().sum(-1).mean().double())
    ranks = torch.stack([torch.stack(values).argsort().argsort().double() for values in (predicted, actual)])
    assert torch.corrcoef(ranks)[0, 1] > 0.8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_name", ["SwinForImageClassification", "SwinBackbone", "ViTModel"])
def test_every_architecture_has_losses(class_name, method, pixel_values):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    pruner.calibrate(pixel_values, num_samples=6)
    losses = losses_of(pruner, method)
    for curve in (*losses.query_key, *losses.value, *losses.mlp, *losses.widths):
        assert torch.isfinite(curve).all()
        assert curve[0] > 0

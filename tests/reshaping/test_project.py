"""Projections are the best approximations of their rank, by brute force on raw activations."""

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.plan.plan import PROJECTED, PruningPlan
from optimum_snp.reshaping.project import project_output, project_scores
from tests.helpers import accuracy, build_source
from tests.reshaping.test_refit import inputs_of, prune


def rows(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return states @ torch.randn(size, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_scores_are_the_best_of_their_rank(size):
    """For one image the weighting is exact: no scores of this rank are nearer than the truncated SVD."""
    query, key = rows(40, 8, 0), rows(40, 8, 1)
    query_map, key_map = project_scores(query.T @ query, key.T @ key, size)
    scores = query @ key.T
    found = torch.dist((query @ query_map) @ (key @ key_map).T, scores)
    best = torch.linalg.svdvals(scores)[size:].norm()
    torch.testing.assert_close(found, best, rtol=1e-6, atol=0)


def test_scores_of_full_size_are_exact():
    query, key = rows(40, 8, 0), rows(5, 8, 1)  # fewer keys than neurons: a rank-deficient moment
    query_map, key_map = project_scores(query.T @ query, key.T @ key, 8)
    torch.testing.assert_close(query_map @ key_map.T, torch.eye(8).double(), rtol=0, atol=1e-6)


def test_softmax_is_kept_though_the_mean_key_is_dropped(trained, digits):
    """Keys with a large common part: centred moments see through it, so attention stays."""
    images = digits[0][:64]
    shifted = convert(trained)
    with torch.no_grad():
        for layer in shifted.base_model.layers:
            layer.attention.k_proj.bias.add_(50 * torch.randn_like(layer.attention.k_proj.bias))
    plain, found = (prune(model, images, "projection", qk_sparsity=0.5) for model in (trained, shifted))
    with torch.no_grad():
        torch.testing.assert_close(found(images).logits, plain(images).logits, rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [1, 4])
def test_output_directions_are_the_best_of_their_rank(size):
    values = rows(60, 6, 0)
    values = values - values.mean(0)
    weight = torch.randn(9, 6, dtype=torch.float64)
    kept = values @ project_output(values.T @ values / 60, weight, size)
    output = values @ weight.T
    found = torch.dist(kept @ torch.linalg.lstsq(kept, output).solution, output)
    torch.testing.assert_close(found, torch.linalg.svdvals(output)[size:].norm(), rtol=1e-6, atol=0)


def test_block_outputs_are_nearer_than_those_of_any_selection(trained, digits):
    """The first block's attention and MLP, whose inputs are those of the dense model."""
    images = digits[0][:64]
    dense = convert(trained)
    models = {method: prune(trained, images, method, v_sparsity=0.5, mlp_sparsity=0.5) for method in METHODS}
    for name in ("attention.o_proj", "mlp.fc2"):
        target = dense.base_model.layers[0].get_submodule(name)(inputs_of(dense, name, images)[0].float())
        errors = {
            method: torch.dist(
                model.base_model.layers[0].get_submodule(name)(inputs_of(model, name, images)[0].float()), target
            )
            for method, model in models.items()
        }
        assert errors["projection"] < errors["snp-refit"] < errors["snp"]


METHODS = ("snp", "snp-refit", "projection")


def test_half_of_everything_but_the_width_keeps_the_accuracy(trained, digits):
    images, labels = digits[0][-500:], digits[1][-500:]
    shares = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5}
    found = {method: accuracy(prune(trained, digits[0][:64], method, **shares), images, labels) for method in METHODS}
    assert found["projection"] > 0.95 * accuracy(trained, images, labels)
    assert found["projection"] > found["snp-refit"] > found["snp"]


@pytest.fixture
def plan(pixel_values):
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification"))
    pruner.calibrate(pixel_values, num_samples=6)
    shares = {"qk_sparsity": 0.5, "v_sparsity": [0.5, 0.0, 0.5], "mlp_sparsity": 0.5, "hidden_sparsity": 0.25}
    return pruner.plan(SNPConfig(method="projection", **shares))


def test_plan_says_what_is_projected(plan, tmp_path):
    assert plan.widths[0].kept == PROJECTED
    assert [block.value == PROJECTED for block in plan.blocks] == [True, False, True]
    assert plan.blocks[1].value == [list(range(12))] * 4
    assert all(block.query_key == PROJECTED and len(block.mlp) == 48 for block in plan.blocks)
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert "36" in str(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["widths"][0].update(kept="all"), r"widths\[0\] must be a list"),
        (lambda values: values["blocks"][1].update(value=PROJECTED), r"blocks\[1\].value must be a list"),
        (lambda values: values["config"].update(method="snp"), r"widths\[0\] must be a list"),
        (lambda values: values["blocks"][0].update(mlp=PROJECTED), r"blocks\[0\].mlp"),
    ],
)
def test_plans_that_contradict_themselves_are_refused(plan, change, message):
    values = plan.to_dict()
    change(values)
    with pytest.raises(ValueError, match=message):
        PruningPlan.from_dict(values)

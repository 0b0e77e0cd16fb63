"""Budgets whose plans fit plain checkpoints: the best of all, never above the budget, and refused before any work."""

import itertools

import pytest

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert, families, native_config
from optimum_snp.plan.sizes import Part
from optimum_snp.planning.decide import check_fits
from optimum_snp.planning.native import allocate_native, native_minimum
from optimum_snp.planning.size_costs import SizeCosts
from tests.families.cases import IMAGES
from tests.helpers import build_source
from tests.planning.test_budget import loss_of, random_losses


def example(class_name):
    return next(family for family in families() if class_name in family.source_classes).example(class_name)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "Dinov2Model"])
@pytest.mark.parametrize("unit", ["macs", "parameters"])
def test_the_best_of_all_plans(class_name, unit):
    """Small enough to try every plan."""
    mlp = {"mlp_ratio": 2} if class_name.startswith("Dinov2") else {"intermediate_size": 14}
    source = build_source(class_name, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, **mlp)
    model = convert(source)
    costs = SizeCosts(model, unit)
    minimum = native_minimum(dict.fromkeys(costs.sizes, 1), model.config)
    dense_mlp = costs.sizes[Part.MLP, 0]
    every = []
    for head_dim, intermediate_size, width in itertools.product(range(1, 5), range(1, dense_mlp + 1), range(1, 9)):
        if class_name.startswith("Dinov2") and intermediate_size % width:
            continue
        sizes = {Part.QUERY_KEY: head_dim, Part.VALUE: head_dim, Part.MLP: intermediate_size, Part.WIDTH: width}
        every.append({(part, index): sizes[part] for part, index in costs.sizes})
    for seed, share in itertools.product(range(3), (0.2, 0.5, 0.8)):
        losses = random_losses(costs.sizes, seed)
        target = share * costs.total(costs.sizes)
        best = min(loss_of(losses, sizes) for sizes in every if costs.total(sizes) <= target)
        found = allocate_native(costs, losses, target, minimum, 1, model_config=model.config)
        assert costs.total(found) <= target
        assert loss_of(losses, found) == pytest.approx(best)


@pytest.fixture(scope="module", params=["ViTForImageClassification", "DeiTModel", "Dinov2ForImageClassification"])
def calibrated(request):
    pruner = SNPPruner(example(request.param))
    pruner.calibrate(IMAGES, len(IMAGES))
    return pruner


@pytest.mark.parametrize(
    "options",
    [
        {"target_flops": 0.7},
        {"target_params": 0.5, "round_to": 1},
        {"target_flops": 0.5, "head_sparsity": 0.25, "dropped_blocks": 1},
        {"target_flops": 0.6, "dropped_blocks": "auto"},
        {"target_flops": 0.7, "frozen_parts": ["hidden_sparsity", "mlp_sparsity"]},
        {"target_flops": 0.7, "method": "snp"},
        {"target_latency": 0.9},
    ],
    ids=str,
)
def test_plans_fit(options, calibrated):
    config = SNPConfig(layout="native", **options)
    check_fits(config, calibrated.model)
    plan = calibrated.plan(config)
    native = native_config(plan.pruned_config(calibrated.model.config), type(calibrated.model))
    assert native.head_dim == plan.kept_blocks[0].after["v_head_dim"]
    if "target_flops" in options:
        assert plan.macs_after <= options["target_flops"] * plan.macs_before
    if "frozen_parts" in options:
        assert plan.widths[0].after == 48
        assert plan.blocks[0].after["intermediate_size"] == plan.blocks[0].before["intermediate_size"]


def test_shares_that_fit_and_shares_that_do_not(source, pixel_values):
    pruner = SNPPruner(source)
    pruner.prune(
        SNPConfig(layout="native", qk_sparsity=0.5, v_sparsity=0.5, mlp_sparsity=[0.3] * 3, dropped_blocks=[1]),
        calibration_dataset=pixel_values,
    )
    assert pruner.layout == "native"
    for shares, message in (
        ({"qk_sparsity": 0.5}, "v_head_dim of block 0 is 12, but qk_head_dim of block 0 is 6"),
        (
            {"mlp_sparsity": [0.5, 0.5, 0.0]},
            "intermediate_size of block 2 is 96, but intermediate_size of block 0 is 48",
        ),
        ({"head_sparsity": [0.5, 0.0, 0.5]}, "num_attention_heads of block 1 is 4"),
    ):
        with pytest.raises(ValueError, match=message):
            SNPPruner(source).prune(SNPConfig(layout="native", **shares), calibration_dataset="no/such/folder")
    with pytest.raises(ValueError, match="Blocks were dropped"):
        config = SNPConfig(layout="native", target_flops=0.5, dropped_blocks=1)
        SNPPruner(example("Dinov2Backbone")).prune(config, calibration_dataset="no/such/folder")
    with pytest.raises(ValueError, match="Swin cannot be saved as a plain checkpoint"):
        config = SNPConfig(layout="native", target_flops=0.5)
        SNPPruner(example("SwinModel")).prune(config, calibration_dataset="no/such/folder")


def test_blocks_that_must_differ(source, pixel_values):
    """A model whose blocks differ already becomes even, but not where a part is to stay whole."""
    pruner = SNPPruner(source)
    pruner.prune(SNPConfig(mlp_sparsity=[0.5, 0.0, 0.25], qk_sparsity=0.5), calibration_dataset=pixel_values)
    pruner.calibrate(pixel_values, len(pixel_values))
    after = pruner.plan(SNPConfig(layout="native", target_flops=0.8)).blocks[2].after
    assert after["intermediate_size"] <= 48 and after["qk_head_dim"] == after["v_head_dim"] <= 6
    config = SNPConfig(layout="native", target_flops=0.9, frozen_parts=["mlp_sparsity"])
    with pytest.raises(ValueError, match="intermediate_size must stay at least 96 in one block and is 48 in another"):
        check_fits(config, pruner.model)


def test_a_budget_that_cannot_be_reached(calibrated):
    with pytest.raises(ValueError, match=r"target_flops=0.005 cannot be reached: the least sizes allowed leave"):
        calibrated.plan(SNPConfig(layout="native", target_flops=0.005))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "plain"}, "layout must be one of 'snp', 'native', got 'plain'"),
        ({"layout": "native", "target_flops": 0.5, "head_sparsity": "auto"}, "Name the share of the heads that goes"),
        ({"layout": "native", "target_flops": 0.5, "frozen_blocks": [0]}, "Leave frozen_blocks out"),
    ],
)
def test_configs_that_contradict_themselves(options, message):
    with pytest.raises(ValueError, match=message):
        SNPConfig(**options)

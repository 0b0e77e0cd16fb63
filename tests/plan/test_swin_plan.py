"""Plans for Swin: shares by stage, one width per stage, and what windows cost."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from optimum_snp.planning.decide import make_plan
from optimum_snp.structure.costs import count_macs, count_parameters, skeleton
from tests.helpers import SWIN_CLASSES, build_source
from tests.plan.test_plan import random_scores


UNEVEN = {
    "qk_sparsity": [[0.5, 0.25], [0.0, 0.75, 0.5]],
    "v_sparsity": [0.25, 0.5, 0.0, 0.75, 0.9],
    "mlp_sparsity": 0.5,
    "hidden_sparsity": [0.25, 0.5],
}


def plan_for(model, **options):
    return make_plan(model, random_scores(model.config), SNPConfig(**options))


@pytest.fixture
def plan():
    return plan_for(convert(build_source("SwinForImageClassification")), method="snp", **UNEVEN)


@pytest.mark.parametrize(
    ("embed_dim", "depths", "num_heads", "macs", "parameters"),
    [
        (96, [2, 2, 6, 2], [3, 6, 12, 24], 4.5, 28.3),
        (96, [2, 2, 18, 2], [3, 6, 12, 24], 8.7, 49.6),
        (128, [2, 2, 18, 2], [4, 8, 16, 32], 15.4, 87.8),
    ],
    ids=["tiny", "small", "base"],
)
def test_dense_models_cost_what_is_published(embed_dim, depths, num_heads, macs, parameters):
    config = SNPSwinConfig(embed_dim=embed_dim, depths=depths, num_heads=num_heads, num_labels=1000)
    dense = skeleton(SNPSwinForImageClassification, config)
    assert count_macs(dense) / 1e9 == pytest.approx(macs, rel=0.01)
    assert count_parameters(dense) / 1e6 == pytest.approx(parameters, rel=0.002)


@pytest.mark.parametrize("image_size", [24, 20, (36, 44)])
@pytest.mark.parametrize("method", ["snp", "projection"])
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_macs_are_those_that_torch_counts(class_name, method, image_size):
    """6 x 6, 5 x 5 and 9 x 11 patches in windows of 3 x 3."""
    model = convert(build_source(class_name, attn_implementation="eager", image_size=image_size))
    images = torch.randn(2, 3, *(image_size if isinstance(image_size, tuple) else (image_size, image_size)))
    pruner = SNPPruner.from_pretrained(model)
    pruner.calibrate(images, num_samples=2)
    pruned = pruner.prune(SNPConfig(method=method, **UNEVEN))
    for one in (model, pruned):
        with FlopCounterMode(display=False) as counter:
            one(images[:1])
        assert count_macs(one) == counter.get_total_flops() // 2
    plan = pruner.pruning_plan
    assert (plan.macs_before, plan.parameters_before) == (count_macs(model), count_parameters(model))
    assert (plan.macs_after, plan.parameters_after) == (count_macs(pruned), count_parameters(pruned))


@pytest.mark.parametrize("model_class", [SNPSwinModel, SNPSwinForImageClassification, SNPSwinBackbone])
def test_a_skeleton_costs_what_the_model_costs(model_class):
    model = convert(build_source(model_class.__name__.removeprefix("SNP")))
    assert count_macs(skeleton(model_class, model.config)) == count_macs(model)
    assert count_parameters(skeleton(model_class, model.config)) == count_parameters(model)


def test_shares_by_block_and_by_stage(plan):
    assert [block.stage for block in plan.blocks] == [0, 0, 1, 1, 1]
    assert [block.after["qk_head_dim"] for block in plan.blocks] == [6, 9, 12, 3, 6]
    assert [block.after["v_head_dim"] for block in plan.blocks] == [9, 6, 12, 3, 1]
    assert [block.after["intermediate_size"] for block in plan.blocks] == [24, 24, 48, 48, 48]
    assert [(width.before, width.after) for width in plan.widths] == [(12, 9), (24, 12)]
    for block, heads in zip(plan.blocks, (1, 1, 2, 2, 2), strict=True):
        assert len(block.query_key) == len(block.value) == heads
        assert {name: block.after[name] for name in ("attention_scale", "shift_size")} == {
            name: block.before[name] for name in ("attention_scale", "shift_size")
        }


def test_nested_and_flat_shares_are_the_same():
    model = convert(build_source("SwinForImageClassification"))
    nested, flat = [[0.1, 0.2], [0.3, 0.4, 0.5]], [0.1, 0.2, 0.3, 0.4, 0.5]
    parts = ("qk_sparsity", "v_sparsity", "mlp_sparsity")
    one, other = (plan_for(model, **dict.fromkeys(parts, shares)) for shares in (nested, flat))
    assert one.blocks == other.blocks


def test_table_lists_the_stages(plan):
    lines = str(plan).splitlines()
    first, second = lines.index("stage 0, hidden size 12 -> 9"), lines.index("stage 1, hidden size 24 -> 12")
    assert [line.split()[0] for line in lines[first + 1 : first + 3]] == ["0", "1"]
    assert [line.split()[0] for line in lines[second + 1 : second + 4]] == ["2", "3", "4"]
    assert "12 -> 6" in lines[first + 1] and "96 -> 48" in lines[second + 1]
    assert f"({plan.parameters_after / plan.parameters_before:.1%} remain)" in lines[-1]


@pytest.mark.parametrize("method", ["snp", "projection"])
def test_json_round_trip(method, tmp_path):
    model = convert(build_source("SwinForImageClassification"))
    plan = plan_for(model, method=method, **UNEVEN)
    plan.save(tmp_path / "plan.json")
    loaded = PruningPlan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert json.loads((tmp_path / "plan.json").read_text())["widths"][1]["after"] == 12
    assert loaded.pruned_config(model.config).hidden_sizes == [9, 12]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"qk_sparsity": [0.5, 0.5]}, "qk_sparsity has 2 shares, but the model has 5 blocks"),
        ({"mlp_sparsity": [0.5] * 6}, "mlp_sparsity has 6 shares, but the model has 5 blocks"),
        (
            {"v_sparsity": [[0.5], [0.5]]},
            r"v_sparsity has \[1, 1\] shares by stage, but the model has \[2, 3\] blocks",
        ),
        ({"v_sparsity": [[0.5] * 3, [0.5] * 2]}, r"v_sparsity has \[3, 2\] shares by stage"),
        ({"v_sparsity": [[0.5] * 5]}, r"v_sparsity has \[5\] shares by stage, but the model has \[2, 3\] blocks"),
        ({"hidden_sparsity": [0.5]}, "hidden_sparsity has 1 share, but the model has 2 stages"),
        ({"hidden_sparsity": [0.1] * 5}, "hidden_sparsity has 5 shares, but the model has 2 stages"),
    ],
)
def test_shares_that_do_not_fit_are_refused_before_calibration(shares, message):
    pruner = SNPPruner.from_pretrained(build_source("SwinForImageClassification"))
    with pytest.raises(ValueError, match=message):
        pruner.prune(SNPConfig(**shares), calibration_dataset="/not/read")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"qk_sparsity": [0.5, [0.5]]}, "qk_sparsity must be a share or a list of shares, by stage or not"),
        ({"mlp_sparsity": [[0.5], [1.0]]}, r"mlp_sparsity\[1\]\[0\] must be a share in \[0, 1\), got 1.0"),
        ({"v_sparsity": [[[0.5]]]}, r"v_sparsity\[0\] must be a share or a list of shares, got"),
        ({"hidden_sparsity": [[0.5], [0.5]]}, "hidden_sparsity must be a share or a list of shares, got"),
        ({"hidden_sparsity": [0.5, -0.1]}, r"hidden_sparsity\[1\] must be a share in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_nesting_is_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        SNPConfig(**shares)


def test_plan_of_another_swin_is_refused(plan):
    for options in ({"depths": [3, 2]}, {"num_heads": [2, 2]}, {"embed_dim": 14}):
        other = convert(build_source("SwinForImageClassification", **options))
        with pytest.raises(ValueError, match="made for a model of other sizes"):
            plan.pruned_config(other.config)
    vit = convert(build_source("ViTForImageClassification"))
    with pytest.raises(ValueError, match="made for a model of other sizes"):
        plan.pruned_config(vit.config)

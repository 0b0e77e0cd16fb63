"""Plans without some heads and blocks."""

import math

import pytest
import torch

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.scoring import block_scores
from optimum_snp.structure.costs import count_macs, count_parameters
from tests.helpers import build_source


METHODS = ("snp", "snp-refit", "projection")


def calibrated(class_name, pixel_values, **options):
    pruner = SNPPruner.from_pretrained(build_source(class_name, **options))
    pruner.calibrate(pixel_values, num_samples=6)
    return pruner


def sizes(plan):
    return [(block.after or {}).get("num_attention_heads", 0) for block in plan.blocks]


@pytest.mark.parametrize("method", METHODS)
def test_counts_of_heads(method, pixel_values):
    pruner = calibrated("ViTForImageClassification", pixel_values)
    assert sizes(pruner.plan(SNPConfig(method=method, head_sparsity=0.5))) == [2, 2, 2]
    plan = pruner.plan(SNPConfig(method=method, head_sparsity=[0.0, 0.3, 0.99], v_sparsity=0.5))
    assert sizes(plan) == [4, 3, 1]  # one stays
    assert [len(block.heads) for block in plan.blocks] == [4, 3, 1]
    if method != "projection":
        assert [len(block.query_key) for block in plan.blocks] == [4, 3, 1]
    assert all(block.after["v_head_dim"] == 6 for block in plan.blocks)


def test_lists_by_stage_and_by_block(pixel_values):
    pruner = calibrated("SwinForImageClassification", pixel_values)
    for shares in ([0.5, 0.5, 0.5, 0.0, 0.5], [[0.5, 0.5], [0.5, 0.0, 0.5]]):
        plan = pruner.plan(SNPConfig(head_sparsity=shares, dropped_blocks=[4]))
        assert sizes(plan) == [1, 1, 1, 2, 0]


def test_the_blocks_that_change_least_go_and_every_stage_keeps_one(pixel_values):
    pruner = calibrated("SwinForImageClassification", pixel_values)
    scores = block_scores(pruner.statistics)
    first, second = scores[:2].argsort().tolist(), (scores[2:].argsort() + 2).tolist()
    for count in range(4):
        plan = pruner.plan(SNPConfig(dropped_blocks=count, reconstruction=False))
        allowed = sorted([first[0], *second[:2]], key=lambda block: scores[block])
        assert [index for index, kept in enumerate(sizes(plan)) if not kept] == sorted(allowed[:count])
    with pytest.raises(ValueError, match="dropped_blocks is 4, but only 3 of the 5 blocks can go"):
        pruner.plan(SNPConfig(dropped_blocks=4))


@pytest.mark.parametrize("method", METHODS)
def test_a_block_that_adds_nothing_goes_first_and_changes_nothing(method, pixel_values):
    source = build_source("ViTForImageClassification")
    layer = source.base_model.layers[1]
    with torch.no_grad():
        for linear in (layer.attention.o_proj, layer.mlp.fc2):
            linear.weight.zero_()
            linear.bias.zero_()
    pruner = SNPPruner.from_pretrained(source)
    pruned = pruner.prune(SNPConfig(method=method, dropped_blocks=1), calibration_dataset=pixel_values)
    assert [block.after is None for block in pruner.pruning_plan.blocks] == [False, True, False]
    with torch.no_grad():
        torch.testing.assert_close(pruned(pixel_values).logits, source(pixel_values).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
@pytest.mark.parametrize("budget", [{}, {"target_flops": 0.35}, {"target_params": 0.35}])
def test_everything_together(class_name, method, budget, pixel_values, tmp_path):
    """Costs are those of the real model, a budget counts what has gone, the plan survives JSON."""
    pruner = calibrated(class_name, pixel_values)
    shares = {} if budget else {"qk_sparsity": 0.4, "v_sparsity": 0.3, "mlp_sparsity": 0.5, "hidden_sparsity": 0.2}
    plan = pruner.plan(SNPConfig(method=method, head_sparsity=0.5, dropped_blocks=1, **shares, **budget))
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    macs, parameters = count_macs(pruner.model), count_parameters(pruner.model)
    pruned = pruner.prune(plan)
    assert (plan.macs_before, plan.macs_after) == (macs, count_macs(pruned))
    assert (plan.parameters_before, plan.parameters_after) == (parameters, count_parameters(pruned))
    assert sum(kept == 0 for kept in sizes(plan)) == 1
    assert torch.isfinite(pruned(pixel_values).logits).all()
    if "target_flops" in budget:
        assert 0.3 * macs < plan.macs_after <= 0.35 * macs
    if "target_params" in budget:
        assert 0.3 * parameters < plan.parameters_after <= 0.35 * parameters


def test_frozen_blocks_stay_whole(pixel_values):
    pruner = calibrated("ViTForImageClassification", pixel_values)
    least = int(block_scores(pruner.statistics).argmin())
    config = SNPConfig(target_flops=0.6, head_sparsity=0.5, dropped_blocks=1, frozen_blocks=[least])
    plan = pruner.plan(config)
    assert plan.blocks[least].after == plan.blocks[least].before
    assert sorted(sizes(plan)) == [0, 2, 4]


def test_a_budget_that_heads_and_blocks_leave_unspent_takes_no_more(pixel_values):
    pruner = calibrated("ViTForImageClassification", pixel_values)
    plan = pruner.plan(SNPConfig(target_flops=0.9, dropped_blocks=1))
    for block in plan.kept_blocks:
        assert block.after == block.before


def test_share_of_the_dense_model_that_can_be_reached(pixel_values):
    pruner = calibrated("ViTForImageClassification", pixel_values)
    frozen = ["qk_sparsity", "v_sparsity", "mlp_sparsity", "hidden_sparsity"]
    plan = pruner.plan(SNPConfig(dropped_blocks=1))
    least = plan.macs_after / plan.macs_before
    with pytest.raises(
        ValueError, match=rf"target_flops=0.1 cannot be reached: .* leave {math.ceil(10_000 * least) / 10_000}"
    ):
        pruner.plan(SNPConfig(target_flops=0.1, dropped_blocks=1, frozen_parts=frozen))


@pytest.mark.parametrize(
    ("class_name", "options", "message"),
    [
        (
            "ViTForImageClassification",
            {"head_sparsity": [0.5]},
            "head_sparsity has 1 share, but the model has 3 blocks",
        ),
        ("ViTForImageClassification", {"dropped_blocks": 3}, "dropped_blocks is 3, but only 2 of the 3 blocks can go"),
        (
            "ViTForImageClassification",
            {"dropped_blocks": [3]},
            "dropped_blocks has 3, but the model has blocks 0 to 2",
        ),
        ("ViTForImageClassification", {"dropped_blocks": [0, 1, 2]}, "dropped_blocks leaves no block of the model"),
        ("SwinForImageClassification", {"dropped_blocks": [0, 1]}, "dropped_blocks leaves no block of stage 0"),
        (
            "ViTForImageClassification",
            {"dropped_blocks": 2, "frozen_blocks": [0, 1], "target_flops": 0.5},
            "only 1 of the 3 blocks can go",
        ),
    ],
)
def test_refused_before_any_work(class_name, options, message):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    with pytest.raises(ValueError, match=message):
        pruner.prune(SNPConfig(**options), calibration_dataset="/not/read")


def test_table(pixel_values):
    pruner = calibrated("ViTForImageClassification", pixel_values)
    lines = str(pruner.plan(SNPConfig(head_sparsity=0.5, dropped_blocks=[1]))).splitlines()
    assert lines[3].split() == ["1", "dropped"]
    assert lines[4].split()[:4] == ["2", "4", "->", "2"]


def test_history_over_two_steps(pixel_values, tmp_path):
    pruner = calibrated("ViTForImageClassification", pixel_values)
    pruner.prune(SNPConfig(dropped_blocks=[0], head_sparsity=0.25))
    first = pruner.pruning_plan
    pruner.prune(SNPConfig(dropped_blocks=[1], head_sparsity=0.4), calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path / "small")
    plan = SNPPruner.from_pretrained(tmp_path / "small").pruning_plan
    assert [block.after is None for block in plan.history] == [True, False, True]
    kept = [first.blocks[1].heads[head] for head in plan.blocks[0].heads]
    assert plan.history[1].heads == kept
    assert plan.history[1].before["num_attention_heads"] == 4
    assert plan.history[1].after["num_attention_heads"] == len(kept) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda block: block["heads"].pop(), r"blocks\[0\].heads keeps 1 heads, the size after pruning is 2"),
        (lambda block: block["heads"].reverse(), r"blocks\[0\].heads must be rising"),
        (lambda block: block.update(after=None), r"blocks\[0\] is dropped, so it keeps nothing"),
    ],
)
def test_plans_that_contradict_themselves(change, message, pixel_values):
    values = calibrated("ViTForImageClassification", pixel_values).plan(SNPConfig(head_sparsity=0.5)).to_dict()
    change(values["blocks"][0])
    with pytest.raises(ValueError, match=message):
        PruningPlan.from_dict(values)


def test_plans_from_before_heads_could_go_load(pixel_values):
    plan = calibrated("ViTForImageClassification", pixel_values).plan(SNPConfig(mlp_sparsity=0.5))
    values = plan.to_dict()
    for block in values["blocks"]:
        del block["heads"]
    assert PruningPlan.from_dict(values) == plan

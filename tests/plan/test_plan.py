"""Plans: the published presets, sizes, tables and JSON."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from optimum_snp.plan.sizes import kept_size
from optimum_snp.planning.decide import make_plan
from optimum_snp.planning.removal import keep_highest
from optimum_snp.scoring import Scores
from optimum_snp.structure import block_sizes, stream_widths
from optimum_snp.structure.costs import count_macs, count_parameters, skeleton
from tests.helpers import CLASSES, build_source, inputs_for, prunable


PUBLISHED = {
    # preset: hidden size, heads, GMACs and M parameters of the dense and of the pruned model as published
    "deit-tiny-0.6g": (192, 3, 1.3, 5.7, 0.64, 3.01),
    "deit-small-2.0g": (384, 6, 4.6, 22.1, 2.04, 10.06),
    "deit-small-1.3g": (384, 6, 4.6, 22.1, 1.27, 6.47),
    "deit-base-6.4g": (768, 12, 17.6, 86.6, 6.32, 31.6),
}


def random_scores(config):
    generator = torch.Generator().manual_seed(0)
    blocks = block_sizes(config)

    def per_head(size):
        return [torch.rand(block["num_attention_heads"], block[size], generator=generator) for block in blocks]

    return Scores(
        query_key=per_head("qk_head_dim"),
        value=per_head("v_head_dim"),
        mlp=[torch.rand(block["intermediate_size"], generator=generator) for block in blocks],
        widths=[torch.rand(width, generator=generator) for width in stream_widths(config)],
    )


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_reach_the_published_sizes(preset):
    hidden_size, heads, macs, parameters, pruned_macs, pruned_parameters = PUBLISHED[preset]
    config = SNPViTConfig(
        hidden_size=hidden_size, num_attention_heads=heads, intermediate_size=4 * hidden_size, num_labels=1000
    )
    dense = skeleton(SNPViTForImageClassification, config)
    plan = make_plan(dense, random_scores(config), SNPConfig.from_preset(preset))
    assert plan.macs_before / 1e9 == pytest.approx(macs, rel=0.04)  # published with two digits
    assert plan.parameters_before / 1e6 == pytest.approx(parameters, rel=0.005)
    assert plan.macs_after / 1e9 == pytest.approx(pruned_macs, rel=0.005)
    assert plan.parameters_after / 1e6 == pytest.approx(pruned_parameters, rel=0.005)


@pytest.mark.parametrize("class_name", CLASSES)
def test_macs_are_those_that_torch_counts(class_name):
    model = convert(build_source(class_name))
    images = inputs_for(model, 6)
    model.set_attn_implementation("eager")
    plan = SNPPruner.from_pretrained(model)
    plan.calibrate(images, num_samples=6)
    shares = prunable(model.config, qk_sparsity=0.3, v_sparsity=0.6, mlp_sparsity=0.5, hidden_sparsity=0.2)
    pruned = plan.prune(SNPConfig(**shares))
    for one in (model, pruned):
        with FlopCounterMode(display=False) as counter:
            one(images[:1])
        assert count_macs(one) == counter.get_total_flops() // 2
    assert plan.pruning_plan.macs_after == count_macs(pruned)
    assert plan.pruning_plan.parameters_after == count_parameters(pruned)
    assert plan.pruning_plan.parameters_before == count_parameters(model)


def test_a_skeleton_costs_what_the_model_costs():
    model = convert(build_source("ViTModel"))
    assert count_macs(skeleton(SNPViTModel, model.config)) == count_macs(model)
    assert count_parameters(skeleton(SNPViTModel, model.config)) == count_parameters(model)


@given(size=st.integers(1, 5000), share=st.floats(0, 1, exclude_max=True), round_to=st.integers(1, 64))
def test_kept_sizes(size, share, round_to):
    kept = kept_size(size, share, round_to)
    assert 1 <= kept <= size
    if share == 0:
        assert kept == size
    else:
        assert kept % round_to == 0 or kept == size
        assert abs(kept - size * (1 - share)) <= round_to / 2 + 1e-6 or kept in (round_to, size)


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [
        (64, 0.609375, 25),
        (64, 0.203125, 51),
        (64, 0.515625, 31),
        (10, 0.25, 8),
        (10, 0.35, 7),
        (15, 0.9, 2),
        (3, 0.99, 1),
    ],
)
def test_half_rounds_up(size, share, expected):
    assert kept_size(size, share, 1) == expected


def test_highest_scores_stay_and_ties_keep_the_first():
    assert keep_highest(torch.tensor([0.1, 0.9, 0.5, 0.7]), 2) == [1, 3]
    assert keep_highest(torch.ones(5), 3) == [0, 1, 2]
    assert keep_highest(torch.tensor([2.0, 1.0, 1.0, 3.0]), 3) == [0, 1, 3]


@pytest.fixture
def plan():
    model = convert(build_source("ViTForImageClassification"))
    config = SNPConfig(
        method="snp", qk_sparsity=[0.5, 0.25, 0.0], v_sparsity=0.5, mlp_sparsity=0.75, hidden_sparsity=0.25
    )
    return make_plan(model, random_scores(model.config), config)


def test_one_share_per_block(plan):
    assert [block.after["qk_head_dim"] for block in plan.blocks] == [6, 9, 12]
    assert [block.after["v_head_dim"] for block in plan.blocks] == [6, 6, 6]
    assert [block.after["intermediate_size"] for block in plan.blocks] == [24, 24, 24]
    assert plan.widths[0].after == 36
    assert all(block.after["attention_scale"] == block.before["attention_scale"] for block in plan.blocks)
    assert all(len(block.query_key) == len(block.value) == 4 for block in plan.blocks)


def test_heads_choose_their_own_neurons(plan):
    assert len({tuple(kept) for kept in plan.blocks[0].query_key}) > 1


def test_wrong_number_of_shares():
    model = convert(build_source("ViTForImageClassification"))
    with pytest.raises(ValueError, match="mlp_sparsity has 2 shares, but the model has 3 blocks"):
        make_plan(model, random_scores(model.config), SNPConfig(mlp_sparsity=[0.1, 0.2]))


def test_multiples():
    model = convert(build_source("ViTForImageClassification"))
    config = SNPConfig(qk_sparsity=0.4, v_sparsity=0.9, mlp_sparsity=0.5, hidden_sparsity=0.1, round_to=8)
    plan = make_plan(model, random_scores(model.config), config)
    assert plan.blocks[0].after["qk_head_dim"] == 8
    assert plan.blocks[0].after["v_head_dim"] == 8
    assert plan.blocks[0].after["intermediate_size"] == 48
    assert plan.widths[0].after == 40


def test_table(plan):
    text = str(plan)
    assert "12 -> 9" in text
    assert "96 -> 24" in text
    assert "hidden size   48 -> 36" in text
    assert f"({plan.macs_after / plan.macs_before:.1%} remain)" in text


def test_json_round_trip(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["blocks"][0]["after"]["qk_head_dim"] == 6


def test_second_step_records_the_first(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    first = pruner.pruning_plan
    assert first.previous is None
    assert "step" not in str(first)
    pruner.prune(SNPConfig(mlp_sparsity=0.25, hidden_sparsity=0.25), calibration_dataset=pixel_values)
    second = pruner.pruning_plan
    assert second.previous is first
    assert second.macs_before == first.macs_after
    assert f"({second.macs_after / second.macs_before:.1%} remain)" in str(second)
    assert "This is step 2" in str(second)
    assert f"({second.macs_after / first.macs_before:.1%} remain)" in str(second)

    second.save(tmp_path / "plan.json")
    loaded = PruningPlan.load(tmp_path / "plan.json")
    assert loaded == second
    assert loaded.steps == [first, second]
    values = loaded.to_dict()
    del values["previous"]["blocks"]
    with pytest.raises(ValueError, match="The plan has no blocks"):
        PruningPlan.from_dict(values)


def test_plans_that_know_no_steps_load(plan):
    values = plan.to_dict()
    del values["previous"]
    assert PruningPlan.from_dict(values) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.update(format_version=9), "format_version of the plan must be 1, got 9"),
        (lambda plan: plan.pop("widths"), "The plan has no widths"),
        (lambda plan: plan["blocks"][1].pop("mlp"), r"blocks\[1\] of the plan must have the fields after, before"),
        (lambda plan: plan["widths"][0]["kept"].pop(), r"widths\[0\] keeps 35 neurons, the size after pruning is 36"),
        (lambda plan: plan["blocks"][1]["mlp"].reverse(), r"blocks\[1\].mlp must be rising"),
        (lambda plan: plan["blocks"][0]["value"].pop(), r"blocks\[0\].value has 3 heads, the block keeps 4"),
        (lambda plan: plan["blocks"][2]["query_key"][0].__setitem__(-1, 12), r"blocks\[2\].query_key must be rising"),
    ],
)
def test_plans_that_contradict_themselves(plan, change, message):
    values = json.loads(json.dumps(plan.to_dict()))
    change(values)
    with pytest.raises(ValueError, match=message):
        PruningPlan.from_dict(values)


def test_plan_of_another_model(plan):
    other = convert(build_source("ViTForImageClassification", intermediate_size=64))
    with pytest.raises(ValueError, match="made for a model of other sizes"):
        plan.pruned_config(other.config)


def test_fields_of_a_later_version_are_left_out_with_a_warning(plan, caplog):
    values = json.loads(json.dumps(plan.to_dict()))
    values["blocks"][1]["tokens"], values["widths"][0]["axis"] = 3, "x"
    assert PruningPlan.from_dict(values) == plan
    assert "blocks[1] of the plan has fields that this version does not know: tokens" in caplog.text
    assert "widths[0] of the plan has fields that this version does not know: axis" in caplog.text

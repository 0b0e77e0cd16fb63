"""Heads and blocks that a budget removes by its own choice."""

import itertools

import pytest
import torch

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.losses import Losses
from optimum_snp.methods import Projection, method_of
from optimum_snp.plan.sizes import NEURON_PARTS, Part
from optimum_snp.planning.size_costs import SizeCosts
from optimum_snp.planning.whole_parts import WholeLosses, choose_head_counts, compute_whole_losses
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_macs, count_parameters, skeleton
from tests.helpers import build_source


CLASSES = ("ViTForImageClassification", "SwinForImageClassification")
METHODS = ("snp", "snp-refit", "projection")
BOTH = {"head_sparsity": "auto", "dropped_blocks": "auto"}


def calibrated(class_name, pixel_values):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    pruner.calibrate(pixel_values, num_samples=6)
    return pruner


def head_counts(plan):
    return [(block.after or {}).get("num_attention_heads", 0) for block in plan.blocks]


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("unit", ["macs", "parameters"])
def test_costs_are_those_of_models_without_them(class_name, unit, pixel_values):
    pruner = calibrated(class_name, pixel_values)
    config = SNPConfig(method="snp", head_sparsity=0.5, dropped_blocks=[1])
    plan = pruner.plan(config)
    costs = SizeCosts(pruner.model, unit)
    sizes = dict(costs.sizes)
    for index, count in enumerate(head_counts(plan)):
        sizes |= {(Part.HEADS, index): max(count, 1), (Part.BLOCK, index): int(count > 0)}
    pruned = skeleton(type(pruner.model), plan.pruned_config(pruner.model.config))
    expected = count_macs(pruned) if unit == "macs" else count_parameters(pruned)
    # The few biases per head of a Swin's tables are no part of any size.
    assert costs.total(sizes) == pytest.approx(expected, rel=1e-9 if unit == "macs" else 0.02)


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_loss_of_a_block_is_what_its_removal_does_to_first_order(class_name, pixel_values):
    """With the block's output scaled by 1 - t, the squared change of the logits is t^2 times the loss for small t."""
    model = convert(build_source(class_name)).eval()
    runs = [collect_statistics(model, pixel_values[:4], num_samples=4, seed=seed) for seed in range(60)]
    step = 1e-2
    for index, block in enumerate(describe(model).blocks):

        def shrink(_module, inputs, outputs):
            return outputs[0] - step * (outputs[0] - inputs[0]), *outputs[1:]

        with torch.no_grad():
            dense = model(pixel_values[:4]).logits
            handle = block.module.register_forward_hook(shrink)
            change = model(pixel_values[:4]).logits - dense
            handle.remove()
        change = change - change.mean(-1, keepdim=True)
        found = torch.stack([run.blocks[index]["removal_change"] for run in runs]).mean()
        assert float(found) == pytest.approx(float(change.double().square().sum()) / step**2, rel=0.35)


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_heads(method, pixel_values):
    """Those of one head gone are the error of the attention's output over all images, by its sensitivity."""
    model = convert(build_source("ViTForImageClassification")).eval()
    statistics = collect_statistics(model, pixel_values, num_samples=6)
    config = SNPConfig(method=method, target_flops=0.5)
    whole = compute_whole_losses(model, statistics, method_of(config).score(model, statistics, config), config)
    attention = describe(model).blocks[0].module.attention
    contexts = []
    handle = attention.o_proj.register_forward_pre_hook(lambda _m, inputs: contexts.append(inputs[0].flatten(0, -2)))
    with torch.no_grad():
        model(pixel_values)
    handle.remove()
    contexts, weight = contexts[0].double(), attention.o_proj.weight.detach().double()
    sums = statistics.blocks[0]
    sensitivity = sums["attention_sensitivity"] / sums["sensitivity_images"] / len(weight)
    errors = []
    for head in range(4):
        kept = torch.ones(4, dtype=torch.bool)
        kept[head] = False
        kept = kept.repeat_interleave(contexts.shape[1] // 4)
        if method == "snp":
            missing = contexts[:, ~kept] @ weight[:, ~kept].T
        else:
            centred = contexts - contexts.mean(0)
            missing = centred @ weight.T
            missing = missing - centred[:, kept] @ torch.linalg.lstsq(centred[:, kept], missing).solution
        errors.append(float(missing.square().sum(1).mean() * sensitivity))
    losses = whole.heads[0]
    assert losses[4] == 0 and (losses.diff() <= 1e-12).all()
    if method == "snp":
        assert min(abs(float(losses[3]) - error) for error in errors) < 1e-4 * max(errors)
    else:
        assert float(losses[3]) == pytest.approx(min(errors), rel=0.05)  # but for the ridge


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("method", ["snp", "projection", pytest.param("snp-refit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("budget", [{"target_flops": 0.2}, {"target_params": 0.3}])
def test_the_plan_keeps_to_the_budget_and_runs(class_name, method, budget, pixel_values, tmp_path):
    pruner = calibrated(class_name, pixel_values)
    plan = pruner.plan(SNPConfig(method=method, **budget, **BOTH))
    plan.save(tmp_path / "plan.json")
    assert head_counts(PruningPlan.load(tmp_path / "plan.json")) == head_counts(plan)
    for stage in {block.stage for block in plan.blocks}:
        assert any(block.after for block in plan.blocks if block.stage == stage)
    model = pruner.prune(plan)
    spent = plan.macs_after / plan.macs_before
    if "target_params" in budget:
        spent = plan.parameters_after / plan.parameters_before
    assert spent <= next(iter(budget.values()))
    with torch.no_grad():
        assert model(pixel_values).logits.isfinite().all()


def made_up(model, head_losses, block_losses, rest, monkeypatch):
    """Losses where only those of heads and blocks differ."""
    sizes = SizeCosts(model, "macs").sizes

    def curves(part):
        sizes_of_part = [size for (other, _), size in sizes.items() if other is part]
        return [torch.linspace(rest, 0, size + 1, dtype=torch.float64) for size in sizes_of_part]

    whole = WholeLosses([torch.tensor(losses, dtype=torch.float64) for losses in head_losses], block_losses)
    monkeypatch.setattr("optimum_snp.planning.whole_parts.compute_whole_losses", lambda *_: whole)
    return Losses(*map(curves, (*NEURON_PARTS, Part.WIDTH)))


def choose(model, losses, config, fixed=None):
    minimum = dict.fromkeys(SizeCosts(model, "macs").sizes, 1)
    return choose_head_counts(model, None, None, losses, config, fixed or [4, 4, 4], minimum, 1)


def test_what_costs_nothing_goes_and_what_costs_much_stays(monkeypatch):
    model = convert(build_source("ViTForImageClassification"))
    free_heads, dear_heads = [9.0, 0.0, 0.0, 0.0, 0.0], [9e9, 9e8, 8e8, 7e8, 0.0]
    losses = made_up(model, [free_heads, dear_heads, dear_heads], [1e9, 1e9, 0.0], 10.0, monkeypatch)
    assert choose(model, losses, SNPConfig(target_flops=0.6, **BOTH)) == [1, 4, 0]
    assert choose(model, losses, SNPConfig(target_flops=0.6, head_sparsity="auto")) == [1, 4, 4]
    assert choose(model, losses, SNPConfig(target_flops=0.6, dropped_blocks="auto")) == [4, 4, 0]
    assert choose(model, losses, SNPConfig(target_flops=0.6, frozen_blocks=[0, 2], **BOTH)) == [4, 4, 4]
    assert choose(model, losses, SNPConfig(target_flops=0.6, head_sparsity="auto"), [4, 0, 4]) == [1, 0, 4]


def test_a_whole_budget_removes_nothing(monkeypatch):
    model = convert(build_source("ViTForImageClassification"))
    heads = [[9.0, 3.0, 2.0, 1.0, 0.0]] * 3
    losses = made_up(model, heads, [5.0, 5.0, 5.0], 10.0, monkeypatch)
    assert choose(model, losses, SNPConfig(target_flops=1.0, **BOTH)) == [4, 4, 4]


def test_every_stage_keeps_the_block_that_is_worth_most(pixel_values, monkeypatch):
    model = convert(build_source("SwinForImageClassification"))
    heads = [block.module.attention.num_attention_heads for block in describe(model).blocks]
    nothing = [[0.0] * (count + 1) for count in heads]
    losses = made_up(model, nothing, [0.0, 0.1, 0.0, 0.2, 0.0], 10.0, monkeypatch)
    counts = choose(model, losses, SNPConfig(target_flops=0.2, dropped_blocks="auto"), heads)
    assert [count > 0 for count in counts] == [False, True, False, True, False]


def test_what_is_not_removed_is_scored_once(pixel_values, monkeypatch):
    pruner, scored = calibrated("ViTForImageClassification", pixel_values), []
    score = Projection.score

    def counting(*arguments):
        scored.append(arguments)
        return score(*arguments)

    monkeypatch.setattr(Projection, "score", counting)
    plan = pruner.plan(SNPConfig(target_flops=1.0, **BOTH))
    assert head_counts(plan) == [4, 4, 4]
    assert len(scored) == 1


@pytest.mark.parametrize("options", [{"head_sparsity": "auto"}, {"dropped_blocks": "auto"}])
def test_only_a_budget_chooses(options):
    with pytest.raises(ValueError, match="='auto' only mean something with target_flops"):
        SNPConfig(mlp_sparsity=0.5, **options)
    with pytest.raises(ValueError, match=r"qk_sparsity must be a share in \[0, 1\), got 'auto'"):
        SNPConfig(qk_sparsity="auto")


@pytest.mark.parametrize("seed", range(5))
def test_nothing_cheaper_loses_less(seed, monkeypatch):
    """Against all choices of heads and blocks, where nothing else may shrink."""
    model = convert(build_source("ViTForImageClassification"))
    generator = torch.Generator().manual_seed(seed)
    heads = torch.rand(3, 4, generator=generator).double().cumsum(1).flip(1).tolist()
    blocks = (torch.rand(3, generator=generator) * 4).tolist()
    losses = made_up(model, [[*of_block, 0.0] for of_block in heads], blocks, 0.0, monkeypatch)
    costs = SizeCosts(model, "macs")
    whole_sizes = dict(costs.sizes)

    def loss_and_cost(counts):
        loss = sum(blocks[index] if count == 0 else [*heads[index], 0.0][count] for index, count in enumerate(counts))
        parts = {(Part.HEADS, index): max(count, 1) for index, count in enumerate(counts)}
        parts |= {(Part.BLOCK, index): int(count > 0) for index, count in enumerate(counts)}
        return loss, costs.total({**whole_sizes, **parts})

    config = SNPConfig(target_flops=0.6, **BOTH)
    counts = choose_head_counts(model, None, None, losses, config, [4, 4, 4], whole_sizes, 1)
    loss, cost = loss_and_cost(counts)
    assert cost <= 0.6 * costs.total(costs.sizes)
    others = [loss_and_cost(other) for other in itertools.product(range(5), repeat=3) if any(other)]
    assert min(other for other, spent in others if spent <= cost) >= loss - 1e-9

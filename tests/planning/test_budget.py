"""Budgets: kept, used up, spent where it loses least."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.losses import Losses
from optimum_snp.plan.sizes import NEURON_PARTS, Part
from optimum_snp.planning.budget import allocate
from optimum_snp.planning.size_costs import SizeCosts
from optimum_snp.structure import block_sizes, resized_config
from optimum_snp.structure.costs import count_macs, count_parameters, skeleton
from tests.helpers import CLASSES, accuracy, build_source, random_sizes


COUNTS = {"macs": count_macs, "parameters": count_parameters}


def resized(model, sizes):
    """A model of these sizes, without weights."""
    blocks = [
        {**block, **{part.size_name: sizes[part, index] for part in NEURON_PARTS}}
        for index, block in enumerate(block_sizes(model.config))
    ]
    widths = [size for (part, _), size in sizes.items() if part is Part.WIDTH]
    return skeleton(type(model), resized_config(model.config, blocks, widths, refits=False))


@pytest.mark.parametrize("unit", COUNTS)
@pytest.mark.parametrize("class_name", CLASSES)
def test_costs_are_those_of_whole_models(class_name, unit):
    model = convert(build_source(class_name))
    costs = SizeCosts(model, unit)
    assert costs.total(costs.sizes) == pytest.approx(COUNTS[unit](model))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        sizes = random_sizes(costs.sizes, model.config, generator)
        assert costs.total(sizes) == pytest.approx(COUNTS[unit](resized(model, sizes)))
        for part, size in sizes.items():
            less, more = costs.curve(part, torch.tensor([size, size + 1]), sizes).tolist()
            larger = {**sizes, part: size + 1}
            assert costs.total(larger) - costs.total(sizes) == pytest.approx(more - less)


def random_losses(sizes, seed):
    """Convex, falling curves of very different height."""
    generator = torch.Generator().manual_seed(seed)

    def curve(size):
        steps = torch.rand(size, generator=generator, dtype=torch.float64).sort(descending=True).values
        steps = steps * 10 ** (4 * float(torch.rand((), generator=generator)))
        return torch.cat((steps.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)))

    def curves(part):
        return [curve(size) for (name, _), size in sizes.items() if name == part]

    return Losses(*(curves(part) for part in (*NEURON_PARTS, Part.WIDTH)))


def loss_of(losses, sizes):
    curves = dict(
        zip((*NEURON_PARTS, Part.WIDTH), (losses.query_key, losses.value, losses.mlp, losses.widths), strict=True)
    )
    return sum(float(curves[part][index][size]) for (part, index), size in sizes.items())


def test_near_the_best_of_all_plans():
    """One block, small enough to try every plan."""
    options = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 10}
    costs = SizeCosts(convert(build_source("ViTForImageClassification", **options)), "macs")
    minimum = dict.fromkeys(costs.sizes, 1)
    every = [
        dict(zip(costs.sizes, sizes, strict=True))
        for sizes in itertools.product(*(range(1, size + 1) for size in costs.sizes.values()))
    ]
    spent = [costs.total(sizes) for sizes in every]
    for seed in range(5):
        losses = random_losses(costs.sizes, seed)
        lost = [loss_of(losses, sizes) for sizes in every]
        worst = max(lost)
        for share in (0.3, 0.5, 0.8):
            target = share * costs.total(costs.sizes)
            best = min(loss for loss, cost in zip(lost, spent, strict=True) if cost <= target)
            found = loss_of(losses, allocate(costs, losses, target, minimum, round_to=1))
            assert best <= found <= best + 0.05 * (worst - best)


@given(
    class_name=st.sampled_from(CLASSES),
    unit=st.sampled_from(sorted(COUNTS)),
    shares=st.lists(st.floats(0.02, 1), min_size=2, max_size=4),
    round_to=st.sampled_from([1, 4, 8]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_any_budget_is_kept_and_used(class_name, unit, shares, round_to, seed):
    model = convert(build_source(class_name))
    costs = SizeCosts(model, unit)
    losses = random_losses(costs.sizes, seed)
    dense = costs.total(costs.sizes)
    minimum = dict.fromkeys(costs.sizes, 1)
    least = costs.total(minimum) / dense
    found = []
    for share in sorted(least + (1 - least) * share for share in shares):
        sizes = allocate(costs, losses, share * dense, minimum, round_to)
        assert all(1 <= size <= costs.sizes[part] for part, size in sizes.items())
        spent = costs.total(sizes)
        assert spent <= share * dense
        # Used up to one percent, or there is nothing left that would fit.
        larger = [{**sizes, part: size + 1} for part, size in sizes.items() if size < costs.sizes[part]]
        assert spent >= 0.99 * share * dense or all(costs.total(more) > share * dense for more in larger)
        found.append((spent, loss_of(losses, sizes)))
    for (less, more_lost), (more, less_lost) in itertools.pairwise(found):
        assert less <= more * 1.01
        assert less_lost <= more_lost * 1.05 + 1e-9


def test_the_same_budget_gives_the_same_plan(trained, digits):
    pruner = SNPPruner.from_pretrained(trained)
    pruner.calibrate(digits[0][:64])
    one, other = (pruner.plan(SNPConfig(target_flops=0.5)).to_dict() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("budget", ["target_flops", "target_params"])
@pytest.mark.parametrize("method", ["snp", "snp-refit", "projection"])
@pytest.mark.parametrize("class_name", ["DeiTForImageClassification", "SwinForImageClassification"])
def test_a_plan_within_the_budget_runs(class_name, method, budget, pixel_values):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    pruner.calibrate(pixel_values, num_samples=6)
    plan = pruner.plan(SNPConfig(method=method, round_to=1, **{budget: 0.4}))
    before, after = (
        (plan.macs_before, plan.macs_after)
        if budget == "target_flops"
        else (plan.parameters_before, plan.parameters_after)
    )
    assert 0.385 * before < after <= 0.4 * before
    pruned = pruner.prune(plan)
    assert (count_macs(pruned), count_parameters(pruned)) == (plan.macs_after, plan.parameters_after)
    assert torch.isfinite(pruned(pixel_values).logits).all()


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_better_than_one_share_for_all(trained, digits, method):
    images, labels = digits[0][-500:], digits[1][-500:]
    calibrated = SNPPruner.from_pretrained(trained)
    statistics = calibrated.calibrate(digits[0][:64])

    def prune(config):
        pruner = SNPPruner.from_pretrained(trained)
        pruner.statistics = statistics
        model = pruner.prune(config)
        return accuracy(model, images, labels), pruner.pruning_plan.macs_after

    shares = {"qk_sparsity": 0.7, "v_sparsity": 0.7, "mlp_sparsity": 0.7, "hidden_sparsity": 0.3}
    uniform, macs = prune(SNPConfig(method=method, **shares))
    found, spent = prune(SNPConfig(method=method, target_flops=macs / count_macs(calibrated.model)))
    assert spent <= macs
    assert found >= uniform - 0.01


def test_what_must_stay_stays(calibrated):
    config = SNPConfig(
        target_flops=0.9,
        frozen_blocks=[1],
        frozen_parts=["hidden_sparsity", "v_sparsity"],
        minimum_qk_head_dim=9,
        minimum_intermediate_size=40,
    )
    plan = calibrated.plan(config)
    assert plan.blocks[1].after == plan.blocks[1].before
    assert plan.widths[0].after == plan.widths[0].before
    for block in plan.blocks:
        assert block.after["v_head_dim"] == block.before["v_head_dim"]
        assert block.after["qk_head_dim"] >= 9 and block.after["intermediate_size"] >= 40
    assert plan.macs_after <= 0.9 * plan.macs_before


@pytest.fixture
def calibrated(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(pixel_values, num_samples=6)
    return pruner


def test_sizes_that_kernels_like_are_preferred(calibrated):
    plan = calibrated.plan(SNPConfig(target_flops=0.5))
    sizes = [block.after["intermediate_size"] for block in plan.blocks]
    assert sum(size % 8 == 0 for size in sizes) >= 2


def test_a_budget_out_of_reach_names_what_can_be_reached(calibrated):
    with pytest.raises(ValueError, match=r"target_flops=0.01 cannot .* least sizes allowed leave 0\.5[0-9]*\."):
        calibrated.plan(SNPConfig(target_flops=0.01, frozen_parts=["mlp_sparsity", "hidden_sparsity"]))


@pytest.mark.parametrize("budget", ["target_flops", "target_params"])
@pytest.mark.parametrize("method", ["snp", "projection"])
def test_what_it_names_can_be_reached(method, budget, pixel_values):
    """A narrower stream brings a Swin new layers, which count as well."""
    pruner = SNPPruner.from_pretrained(build_source("SwinForImageClassification", qkv_bias=False))
    pruner.calibrate(pixel_values, num_samples=6)
    with pytest.raises(ValueError, match=f"{budget}=0.001 cannot be reached") as error:
        pruner.plan(SNPConfig(method=method, **{budget: 0.001}))
    least = float(re.search(r"leave (0\.[0-9]+)\.", str(error.value))[1])
    plan = pruner.plan(SNPConfig(method=method, **{budget: least}))
    assert all(width.after == 2 for width in plan.widths)
    with pytest.raises(ValueError, match=f"the least sizes allowed leave {least}"):
        pruner.plan(SNPConfig(method=method, **{budget: least - 1e-4}))


def test_statistics_without_sensitivities_are_refused(calibrated, pixel_values):
    calibrated.calibrate(pixel_values, num_samples=6, sensitivities=False)
    with pytest.raises(ValueError, match="target_flops needs the sensitivities"):
        calibrated.plan(SNPConfig(target_flops=0.5))


def test_a_block_that_is_not_there_is_refused_before_calibration(source):
    with pytest.raises(ValueError, match="frozen_blocks has 3, but the model has blocks 0 to 2"):
        SNPPruner.from_pretrained(source).prune(SNPConfig(target_flops=0.5, frozen_blocks=[3]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_flops": 0.0}, r"target_flops must be the share that may remain, in \(0, 1\], got 0.0"),
        ({"target_params": 1.5}, "target_params must be the share that may remain"),
        ({"target_flops": True}, "target_flops must be the share"),
        ({"target_flops": 0.5, "target_params": 0.5}, "target_flops and target_params cannot be given together"),
        ({"target_flops": 0.5, "qk_sparsity": 0.5}, "target_flops and qk_sparsity cannot be given together"),
        (
            {"frozen_blocks": [1]},
            "frozen_blocks only mean something with target_flops or target_params or target_latency",
        ),
        ({"target_flops": 0.5, "frozen_blocks": 3}, "frozen_blocks must be a list, got 3"),
        ({"target_flops": 0.5, "frozen_parts": "mlp_sparsity"}, "frozen_parts must be a list, got 'mlp_sparsity'"),
        ({"target_flops": 0.5, "frozen_parts": ["mlp"]}, "frozen_parts must be one of 'qk_sparsity'"),
        ({"target_flops": 0.5, "frozen_blocks": [-1]}, "frozen_blocks must hold block numbers from 0 on, got -1"),
        ({"target_latency": 2}, "target_latency must be the share that may remain"),
        ({"target_flops": 0.5, "target_latency": 0.5}, "target_flops and target_latency cannot be given together"),
        (
            {"target_latency": 0.5, "latency_backend": "tpu"},
            "latency_backend must be one of 'eager', 'compile', 'onnx",
        ),
        ({"target_latency": 0.5, "latency_batch_size": 0}, "latency_batch_size must be a positive integer, got 0"),
        ({"target_latency": 0.5, "latency_threads": 0}, "latency_threads must be a positive integer, got 0"),
        ({"target_flops": 0.5, "latency_threads": 2}, "latency_threads only mean something with target_latency"),
        ({"target_flops": 0.5, "minimum_hidden_size": 0}, "minimum_hidden_size must be a positive integer"),
    ],
)
def test_configs_that_contradict_themselves(options, message):
    with pytest.raises(ValueError, match=message):
        SNPConfig(**options)

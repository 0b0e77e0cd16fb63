"""Budgets of tokens and neurons: how many merge, what that costs, and what pruning makes of it."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.methods import Projection
from optimum_snp.plan.tokens import falling_counts, merged_tokens
from optimum_snp.planning import trial
from optimum_snp.planning.budget import allocate
from optimum_snp.planning.change import ChangeOfOutputs
from optimum_snp.planning.decide import check_fits
from optimum_snp.planning.tokens import choose_token_shares, costs_with_tokens, held_out_images
from optimum_snp.processes import process_state
from optimum_snp.pruning import build_pruned
from optimum_snp.publishing.report import write_report
from optimum_snp.structure import block_sizes, num_mergeable_tokens
from optimum_snp.structure.costs import count_macs
from tests.helpers import build_source
from tests.planning.test_budget import random_losses


IMAGES = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def calibrated(class_name="ViTForImageClassification", images=IMAGES, **options):
    pruner = SNPPruner(build_source(class_name, **options))
    pruner.calibrate(images, len(images), batch_size=16)
    return pruner


@pytest.fixture(scope="module")
def shared():
    return calibrated()


def macs_of(model):
    """From merged tokens to what sizes cost then."""
    return lambda merged: costs_with_tokens(model, merged, "macs")


def merged_of(model):
    return [block.get("merged_tokens", 0) for block in block_sizes(model.config)]


@given(st.integers(4, 400), st.integers(1, 24), st.floats(0, 0.99))
@example(39, 6, 0.96875)
@settings(deadline=None)
def test_counts_fall_and_sum_up(num_patches, num_blocks, share):
    try:
        counts = falling_counts(num_patches, num_blocks, share)
    except ValueError as error:
        # Even halving the patches in every second block would leave more.
        left = num_patches
        for _ in range(0, num_blocks, 2):
            left -= left // 2
        assert num_patches - left < round(share * num_patches)
        assert f"token_sparsity is {share}" in str(error)
        return
    assert sum(counts) == round(share * num_patches)
    assert len(counts) == num_blocks
    assert not any(counts[1::2])
    for count in counts:
        assert 0 <= 2 * count <= num_patches
        num_patches -= count


def test_counts_of_a_large_network():
    """An arithmetic row, in every second block: 5 + 4 + ... + 0 parts of half of the patches."""
    counts = falling_counts(240, 12, 0.5)
    assert counts == [40, 0, 32, 0, 24, 0, 16, 0, 8, 0, 0, 0]


def test_one_block_halves_the_patches_at_most():
    with pytest.raises(ValueError, match=r"but one block, which merges at most half of its patches, leaves 0\.500 of"):
        falling_counts(16, 1, 0.75)


@pytest.mark.parametrize(
    ("class_name", "layout"), [("ViTForImageClassification", "native"), ("DINOv3ViTModel", "snp")]
)
def test_shares_of_nothing_merge_nothing(class_name, layout):
    """Whatever could not merge any."""
    config = SNPConfig(token_sparsity=[0.0, 0.0, 0.0], mlp_sparsity=0.5, layout=layout)
    assert not config.merges_tokens
    check_fits(config, convert(build_source(class_name)))


def test_dropped_blocks_merge_nothing():
    config = convert(build_source("ViTForImageClassification")).config
    assert merged_tokens(0.5, config, [0, 2]) == [8, 0, 0]
    assert merged_tokens([0.25, 0.25, 0.125], config, [0, 2]) == [4, 0, 2]
    assert merged_tokens(0.0, config, [0, 1, 2]) == [0, 0, 0]


@pytest.mark.parametrize("merged", [[5, 3, 0], [8, 0, 2]])
def test_costs_are_those_of_the_operators(merged):
    """Against PyTorch's own count of eager attention, which runs the matching too."""
    pruner = SNPPruner(build_source("ViTForImageClassification"))
    costs = costs_with_tokens(pruner.model, merged, "macs")
    config = pruner.model.config.to_dict()
    for block, count in zip(config["block_configs"], merged, strict=True):
        block["merged_tokens"] = count
    model = type(pruner.model)(type(pruner.model.config).from_dict(config)).eval()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IMAGES[:1])
    counted = counter.get_total_flops() // 2
    assert count_macs(model) == costs.total(costs.sizes)
    # Sums over one-hot rows, which merge, are left out: additions by another name.
    additions = 0
    left = 16
    for count in merged:
        if count:
            additions += left // 2 * count * config["hidden_size"]
        left -= count
    assert count_macs(model) == counted - additions


@pytest.mark.parametrize(
    ("class_name", "method"),
    [
        ("ViTForImageClassification", "projection"),
        ("DeiTModel", "snp-refit"),
        ("Dinov2WithRegistersBackbone", "snp"),
        ("CLIPModel", "projection"),
    ],
)
def test_pruned_with_shares(class_name, method, tmp_path):
    pruner = calibrated(class_name)
    shares = {"qk_sparsity": 0.25, "v_sparsity": 0.25, "mlp_sparsity": 0.5, "hidden_sparsity": 0.1}
    plan = pruner.plan(SNPConfig(method=method, token_sparsity=0.5, **shares))
    num_patches = num_mergeable_tokens(pruner.model.config)
    model = pruner.prune(plan)
    assert sum(merged_of(model)) == round(num_patches / 2)
    assert plan.macs_after == count_macs(model)
    output = model(pixel_values=IMAGES[:2])
    assert all(value.isfinite().all() for value in output.values() if isinstance(value, torch.Tensor))
    pruner.save_pretrained(tmp_path / "pruned")
    loaded = SNPPruner.from_pretrained(tmp_path / "pruned")
    assert merged_of(loaded.model) == merged_of(model)
    card = (tmp_path / "pruned" / "README.md").read_text()
    counts = ", ".join(map(str, merged_of(model)))
    assert f"the blocks merge {counts} of their most alike patches into others" in card
    write_report(tmp_path / "report", {"merging": loaded.record})
    assert f"merge {counts} of their most" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(ValueError, match=r"merge tokens .* Prune it before its tokens merge"):
        loaded.calibrate(IMAGES, 8)


def test_only_tokens_merge(shared):
    """No neuron goes: the weights are those of the dense model, and so is the number of parameters."""
    pruner = shared.copy()
    plan = pruner.plan(SNPConfig(token_sparsity=[0.25, 0.125, 0.0], reconstruction=False))
    dense = {name: weight.clone() for name, weight in pruner.model.named_parameters()}
    model = pruner.prune(plan)
    assert merged_of(model) == [4, 2, 0]
    assert all(torch.equal(weight, dense[name]) for name, weight in model.named_parameters())
    assert plan.parameters_after == plan.parameters_before
    assert "tokens" in str(plan)
    assert "4 merged" in str(plan)


def test_reconstruction_follows_the_groups(shared):
    """What merging loses is made up for: closer to the dense outputs than without, on the images that it saw."""
    errors = {}
    for reconstruction in (False, True):
        pruner = shared.copy()
        dense = pruner.model(IMAGES).logits.detach()
        config = SNPConfig(token_sparsity=0.5, mlp_sparsity=0.5, reconstruction=reconstruction)
        pruner.prune(pruner.plan(config))
        errors[reconstruction] = (pruner.model(IMAGES).logits - dense).square().mean().item()
    assert errors[True] < 0.9 * errors[False]


def test_a_budget_counts_merging(shared):
    plans = {share: shared.plan(SNPConfig(target_flops=0.6, token_sparsity=share, round_to=1)) for share in (0.0, 0.4)}
    for plan in plans.values():
        assert 0.59 < plan.macs_after / plan.macs_before <= 0.6
    # The tokens that are gone leave more for neurons.
    assert plans[0.4].parameters_after > plans[0.0].parameters_after


@pytest.mark.parametrize("sign", [1, -1])
def test_auto_takes_what_loses_least(shared, sign):
    """Where tokens are all that is lost none merges; where they gain, as many as leave no neuron to go."""
    model = shared.model
    losses = random_losses(costs_with_tokens(model, [0, 0, 0], "macs").sizes, 0)
    seen, keeps_neurons = [], []

    def allocate_all(costs, target):
        return allocate(costs, losses, target, dict.fromkeys(costs.sizes, 2), 1)

    def measure(sizes, share):
        merged = merged_tokens(share, model.config, [0, 1, 2])
        costs = costs_with_tokens(model, merged, "macs")
        seen.append(costs.total(sizes) / count_macs(model))
        keeps_neurons.append(sizes == costs.sizes)
        return sign * sum(merged)

    share, *rivals = choose_token_shares(model, macs_of(model), 0.7 * count_macs(model), allocate_all, measure)
    alone = [macs_of(model)(merged_tokens(count / 16, model.config, [0, 1, 2])) for count in range(9)]
    fewest = next(count for count, costs in enumerate(alone) if costs.total(costs.sizes) <= 0.7 * count_macs(model))
    most = fewest / 16
    assert [share, *rivals] == ([0, most / 2, most] if sign == 1 else [most, 0])
    assert all(0.65 < spent <= 0.7 for spent in seen)
    assert keeps_neurons.count(True) == 1


@pytest.mark.parametrize(("least", "expected"), [(0.3, 0.3125), (0.375, 0.375), (0.46, 0.4375)])
def test_auto_looks_closer_around_the_best(shared, least, expected):
    """A loss with one minimum is met to a sixteenth, in ten tries at most."""
    least_sizes, tries = dict.fromkeys(costs_with_tokens(shared.model, [0, 0, 0], "macs").sizes, 1), []

    def measure(_sizes, share):
        tries.append(share)
        return abs(share - least)

    target = 0.5 * count_macs(shared.model)
    assert (
        choose_token_shares(shared.model, macs_of(shared.model), target, lambda _costs, _target: least_sizes, measure)[
            0
        ]
        == expected
    )
    assert len(tries) == len(set(tries)) <= 10


def test_auto_merges_all_it_can_where_nothing_fits(shared):
    shares = choose_token_shares(
        shared.model, macs_of(shared.model), 0, lambda costs, _target: costs.sizes, pytest.fail
    )
    assert shares == [0.75]


def test_auto_measures_the_pruned_model(shared):
    """What is measured for a plan is what the model that is pruned by it does to the same images."""
    change = ChangeOfOutputs(shared.model, IMAGES[:16].to(process_state().device).split(6))
    assert change.of(shared.model) == pytest.approx(0, abs=1e-12)
    pruner = shared.copy()
    pruned = pruner.prune(SNPConfig(target_flops=0.6, token_sparsity=0.25, reconstruction=False))
    with torch.no_grad():
        before, after = (model(IMAGES[:16]).logits.double().softmax(dim=-1) for model in (shared.model, pruned))
    assert change.of(pruned) == pytest.approx((before * (before / after).log()).sum().item(), rel=1e-4)


def test_auto_measures_on_images_that_the_tries_did_not_see(shared, monkeypatch):
    """What is solved from is what calibration on the other images alone would have found."""
    seen = []
    reshape = Projection.reshape

    def keep(self, model, plan, statistics):
        seen.append(statistics)
        return reshape(self, model, plan, statistics)

    monkeypatch.setattr(Projection, "reshape", keep)
    in_small_batches = shared.copy()  # which change nothing
    in_small_batches.calibration_images = dataclasses.replace(shared.calibration_images, batch_size=2)
    config = SNPConfig(target_flops=0.6, token_sparsity="auto")
    assert in_small_batches.plan(config).to_dict() == shared.plan(config).to_dict()
    held_out = 6
    assert held_out_images(len(IMAGES)) == [range(start, start + held_out) for start in range(0, 24, held_out)]
    (first_batch, second_batch) = shared.calibration_images.batches()
    others = collect_statistics(shared.model, torch.cat((first_batch[held_out:], second_batch)), sensitivities=False)
    assert seen[0].num_images == others.num_images == len(IMAGES) - held_out
    pairs = [*zip(others.blocks, seen[0].blocks, strict=True)]
    for expected, found in [*pairs, *((sums, seen[0].norms[name]) for name, sums in others.norms.items())]:
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("least", [0, 2, 3])
def test_what_is_to_be_reconstructed_is_held_to_each_alone(shared, monkeypatch, least):
    """The plan whose reconstructed model changes images least that are held out, a part after the other."""
    built = []

    def build(model, plan, statistics, batches):
        built.append((plan, statistics.num_images, torch.cat(list(batches))))
        return build_pruned(model, plan, statistics, built[-1][2].split(16))

    monkeypatch.setattr(trial, "build_pruned", build)

    def change(_self, _model):
        """In closed form the third try wins, of a quarter of the patches."""
        return abs((len(built) - 1) % 4 - least) if built else abs(next(tries) - 2)

    tries = itertools.count()
    monkeypatch.setattr(ChangeOfOutputs, "of", change)
    plan = shared.plan(SNPConfig(target_flops=0.7, token_sparsity="auto"))
    plans = [tried for tried, _, _ in built[:4]]
    merged = [sum(block.merged_tokens for block in tried.blocks) for tried in plans]
    assert [tried for tried in plans if tried.parameters_after == tried.parameters_before] == [plans[2]]
    assert merged[0] == 4 and merged[0] <= merged[1] <= merged[2] and merged[3] == 0
    assert sum(block.merged_tokens for block in plan.blocks) == merged[least]
    assert plan.macs_after <= 0.7 * plan.macs_before
    images = torch.cat(list(shared.calibration_images.batches()))
    assert [tried for tried, _, _ in built] == plans * 4
    for place, (_, num_images, seen) in enumerate(built):
        part = slice(place // 4 * 6, place // 4 * 6 + 6)
        assert num_images == 18 and torch.equal(seen, torch.cat((images[: part.start], images[part.stop :])))


@pytest.mark.parametrize(
    ("num_images", "sizes"),
    [(1, [1]), (2, [1, 1]), (16, [4] * 4), (48, [12] * 3), (96, [24] * 2), (128, [32]), (1000, [32])],
)
def test_parts_of_few_images_are_measured_in_turn(num_images, sizes):
    parts = held_out_images(num_images)
    assert [len(part) for part in parts] == sizes
    assert [index for part in parts for index in part] == list(range(sum(sizes)))


def test_a_plan_with_auto(shared):
    plan = shared.plan(SNPConfig(target_flops=0.6, token_sparsity="auto"))
    assert plan.macs_after <= 0.6 * plan.macs_before
    merged = sum(block.after.get("merged_tokens", 0) for block in plan.blocks)
    assert merged / 16 in {step / 16 for step in range(15)}
    assert merged_of(shared.copy().prune(plan)) == [block.after.get("merged_tokens", 0) for block in plan.blocks]


@pytest.mark.parametrize(
    ("class_name", "options", "message"),
    [
        ("SwinForImageClassification", {"token_sparsity": 0.5}, "token_sparsity is for models of the ViT family"),
        ("DINOv3ViTModel", {"token_sparsity": 0.5}, "reads where its patches are, by rotary positions"),
        ("BeitModel", {"token_sparsity": 0.5}, "reads where its patches are"),
        ("ViTForImageClassification", {"token_sparsity": [0.5, 0.1]}, "has 2 shares, but the model has 3 blocks"),
        ("ViTForImageClassification", {"token_sparsity": [0.5]}, "has 1 share, but the model has 3 blocks"),
        ("ViTForImageClassification", {"token_sparsity": []}, "has 0 shares, but the model has 3 blocks"),
        ("ViTForImageClassification", {"token_sparsity": [0.6, 0.0, 0.0]}, "block 0 merge 10 tokens, but 16 patches"),
        ("ViTForImageClassification", {"token_sparsity": 0.95}, "token_sparsity is 0.95, but 3 blocks"),
    ],
)
def test_refused_before_any_work(class_name, options, message):
    with pytest.raises(ValueError, match=message):
        check_fits(SNPConfig(**options), convert(build_source(class_name)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_sparsity": 1.0}, r"token_sparsity must be a share in \[0, 1\), got 1.0"),
        ({"token_sparsity": "all"}, r"token_sparsity must be a share in \[0, 1\), got 'all'"),
        ({"token_sparsity": "auto"}, "token_sparsity='auto' only mean something with target_flops"),
        ({"token_sparsity": "auto", "target_params": 0.5}, "token_sparsity='auto' means nothing with target_params"),
        ({"token_sparsity": 0.5, "layout": "native"}, "token_sparsity needs layout='snp'"),
    ],
)
def test_configs_that_say_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        SNPConfig(**options)


def test_auto_needs_images(shared):
    pruner = shared.copy()
    pruner.calibration_images = None
    with pytest.raises(ValueError, match="tries out on images how many tokens may merge"):
        pruner.plan(SNPConfig(token_sparsity="auto", target_flops=0.5))


@pytest.fixture(scope="module")
def merging(shared):
    pruner = shared.copy()
    pruner.prune(SNPConfig(token_sparsity=0.5, mlp_sparsity=0.25))
    return pruner


@pytest.mark.parametrize("export_format", ["onnx", "openvino"])
def test_exports_merge_the_same(merging, tmp_path, export_format):
    """The graph runs beside PyTorch on images that make it merge different pairs."""
    exported = merging.export(tmp_path / "export", format=export_format, calibration_dataset=IMAGES)
    assert exported.check.top1_agreement == 1.0
    assert exported.check.relative_error < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("export_format", ["onnx", "openvino"])
def test_exports_merge_the_same_patches_of_many_images(merging, tmp_path, export_format):
    """Tokens of a group have one state: which have is the same behind every block."""
    pruner = merging.copy()
    pruner.model.config.output_hidden_states = True
    exported = pruner.export(tmp_path / "export", format=export_format)
    images = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    found = exported.open(tmp_path / "export", num_threads=1)(images.numpy())
    with torch.inference_mode():
        expected = pruner.model(images)
    assert torch.equal(torch.from_numpy(found["logits"]).argmax(-1), expected.logits.argmax(-1))
    for index, states in enumerate(expected.hidden_states):
        there = torch.from_numpy(found[f"hidden_states.{index}"])
        for image, image_there in zip(states, there, strict=True):
            _, groups = image.unique(dim=0, return_inverse=True)
            _, groups_there = image_there.unique(dim=0, return_inverse=True)
            assert torch.equal(groups[:, None] == groups, groups_there[:, None] == groups_there)


@pytest.mark.slow
def test_compiles_without_graph_breaks(merging):
    compiled = torch.compile(merging.model, fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES).logits, merging.model(IMAGES).logits, atol=1e-4, rtol=1e-4)

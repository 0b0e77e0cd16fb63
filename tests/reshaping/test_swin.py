"""Every method on Swin: sizes as asked, exact where nothing is removed, accurate on real images, never NaN."""

import copy
import functools

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.methods import method_of
from optimum_snp.models import SNPSwinBackbone
from optimum_snp.plan.sizes import kept_size
from optimum_snp.planning.decide import make_plan
from tests.helpers import SWIN_CLASSES, accuracy, build_source
from tests.reshaping.test_refit import prune


METHODS = ("snp", "snp-refit", "projection")
CLOSED_FORMS = METHODS[1:]
PARTS = ("qk_sparsity", "v_sparsity", "mlp_sparsity", "hidden_sparsity")
SHARES = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5, "hidden_sparsity": 0.25}


def build(class_name, **options):
    features = {"out_features": ["stem", "stage1", "stage2"]} if class_name == "SwinBackbone" else {}
    return build_source(class_name, **features, **options)


def outputs_of(model, images):
    with torch.no_grad():
        output = model(images)
    if "feature_maps" in output:
        return torch.cat([feature_map.flatten() for feature_map in output.feature_maps])
    return output.logits if "logits" in output else output.last_hidden_state


@functools.cache
def calibrated(class_name):
    """A Swin of ours with 1 and 2 heads, whose windows do not divide its maps, and its statistics."""
    model = convert(build(class_name))
    return model, collect_statistics(model, torch.randn(8, 3, 32, 32), num_samples=8)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("class_name", "parts"),
    [("SwinForImageClassification", (part,)) for part in PARTS] + [(class_name, PARTS) for class_name in SWIN_CLASSES],
)
@pytest.mark.parametrize("method", METHODS)
def test_every_share_of_every_part(class_name, method, parts, share):
    """Sizes as asked for; and the model runs on images that patches and windows do not divide."""
    model, statistics = calibrated(class_name)
    config = SNPConfig(method=method, **dict.fromkeys(parts, share))
    plan = make_plan(model, method_of(config).score(model, statistics, config), config)
    pruned = method_of(plan.config).reshape(model, plan, statistics)

    def size(dense, part):
        return kept_size(dense, share, 1) if part in parts else dense

    assert pruned.config.hidden_sizes == [size(12, "hidden_sparsity"), size(24, "hidden_sparsity")]
    for stage, mlp in zip(pruned.config.block_configs, (48, 96), strict=True):
        for block in stage:
            assert block["qk_head_dim"] == size(12, "qk_sparsity")
            assert block["v_head_dim"] == size(12, "v_sparsity")
            assert block["intermediate_size"] == size(mlp, "mlp_sparsity")
    assert outputs_of(pruned, torch.randn(1, 3, 21, 13)).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_zero_sparsity_is_the_dense_model(class_name, method, pixel_values):
    model, statistics = calibrated(class_name)
    config = SNPConfig(method=method)
    plan = make_plan(model, method_of(config).score(model, statistics, config), config)
    pruned = method_of(config).reshape(model, plan, statistics)
    torch.testing.assert_close(outputs_of(pruned, pixel_values), outputs_of(model, pixel_values), rtol=0, atol=1e-5)
    assert pruned.config.patch_embedding_size is None and not pruned.config.merging_bias


@pytest.fixture(scope="module")
def accuracies(trained_swin, digits):
    """Held-out accuracy without training by method, of some shares; the Swin is calibrated once."""
    model = convert(trained_swin)
    statistics = collect_statistics(model, digits[0][:64], num_samples=64)
    held_out = digits[0][-500:], digits[1][-500:]

    def measure(method, **shares):
        config = SNPConfig(method=method, **shares)
        plan = make_plan(model, method_of(config).score(model, statistics, config), config)
        return accuracy(method_of(plan.config).reshape(model, plan, statistics), *held_out)

    measure.dense = accuracy(trained_swin, *held_out)
    return measure


def test_the_trained_swin_is_good(accuracies):
    assert accuracies.dense > 0.93


@pytest.mark.parametrize("part", PARTS)
def test_closed_forms_keep_more_than_selection(accuracies, part):
    share = {part: 0.25 if part == "hidden_sparsity" else 0.5}
    selected, refitted, projected = (accuracies(method, **share) for method in METHODS)
    assert refitted >= selected - 0.01
    assert projected >= selected - 0.01
    assert projected >= 0.95 * accuracies.dense


def test_half_of_everything_but_the_width_keeps_the_accuracy(accuracies):
    shares = {name: share for name, share in SHARES.items() if name != "hidden_sparsity"}
    selected, refitted, projected = (accuracies(method, **shares) for method in METHODS)
    assert projected > 0.95 * accuracies.dense
    assert projected > refitted > selected


def test_scores_choose_better_than_chance(accuracies, trained_swin, digits):
    """What SNP removes of queries and keys hurts less than what it keeps would."""
    pruner = SNPPruner.from_pretrained(trained_swin)
    pruner.calibrate(digits[0][:64])
    plan = pruner.plan(SNPConfig(method="snp", qk_sparsity=0.5))
    opposite = copy.deepcopy(plan)
    for block in opposite.blocks:
        size = block.before["qk_head_dim"]
        block.query_key = [sorted(set(range(size)) - set(kept)) for kept in block.query_key]
    model, images, labels = convert(trained_swin), digits[0][-500:], digits[1][-500:]
    best, worst = (accuracy(method_of(one.config).reshape(model, one), images, labels) for one in (plan, opposite))
    assert best > worst + 0.05


def dead(source):
    """MLP neurons, value neurons and queries and keys that never say anything, and an MLP that is constant."""
    source = copy.deepcopy(source)
    first, second = (source.base_model.encoder.layers[1].blocks[index] for index in (0, 1))
    with torch.no_grad():
        for linear, rows in (
            (first.mlp.fc1, slice(0, 20)),
            (first.attention.v_proj, slice(0, 12)),
            (first.attention.q_proj, slice(0, 12)),
            (first.attention.k_proj, slice(12, 24)),
        ):
            linear.weight[rows] = 0
            linear.bias[rows] = 0
        second.mlp.fc1.weight.zero_()
    return source


@pytest.mark.parametrize("method", CLOSED_FORMS)
@pytest.mark.parametrize(
    "class_name",
    [
        "SwinForImageClassification",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("SwinModel", "SwinBackbone")),
    ],
)
@pytest.mark.parametrize(("make", "num_images"), [(lambda source: source, 1), (dead, 6), (dead, 1)])
def test_never_nan(class_name, method, make, num_images, pixel_values):
    source = make(build(class_name))
    for images in (pixel_values[:num_images], torch.zeros(num_images, 3, 32, 32)):
        pruned = prune(source, images, method, **SHARES)
        assert all(torch.isfinite(weight).all() for weight in pruned.state_dict().values())
        assert outputs_of(pruned, pixel_values).abs().max() < 1e3


@pytest.mark.parametrize("method", [pytest.param("snp", marks=pytest.mark.slow), "projection"])
@pytest.mark.parametrize(
    ("class_name", "loader"),
    [
        ("SwinModel", AutoModel),
        ("SwinForImageClassification", AutoModelForImageClassification),
        ("SwinBackbone", SNPSwinBackbone),  # AutoBackbone takes names of repositories only
    ],
)
def test_saved_and_loaded_it_is_the_same(class_name, loader, method, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(build(class_name))
    pruner.calibrate(pixel_values, num_samples=6)
    pruned = pruner.prune(SNPConfig(method=method, **SHARES))
    pruner.save_pretrained(tmp_path / "pruned")
    loaded = loader.from_pretrained(tmp_path / "pruned")
    assert type(loaded) is type(pruned)
    assert torch.equal(outputs_of(loaded, pixel_values), outputs_of(pruned, pixel_values))
    assert SNPPruner.from_pretrained(tmp_path / "pruned").pruning_plan == pruner.pruning_plan


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_gradients_reach_every_weight(class_name, method, pixel_values):
    pruned = prune(build(class_name), pixel_values, method, **SHARES).train()
    output = pruned(pixel_values, **({"labels": torch.arange(6) % 5} if class_name.endswith("Classification") else {}))
    if "loss" in output:
        output.loss.backward()
    else:
        features = output.feature_maps if "feature_maps" in output else [output.last_hidden_state]
        sum(feature.square().mul(torch.rand_like(feature)).mean() for feature in features).backward()
    without = {name for name, parameter in pruned.named_parameters() if parameter.grad is None}
    final = {"snp_swin.layernorm.weight", "snp_swin.layernorm.bias"}
    assert without == (final if class_name == "SwinBackbone" else set())


def test_half_precision_weights_are_solved_in_float64(trained_swin, digits):
    images, labels = digits[0][-200:], digits[1][-200:]
    shares = {"qk_sparsity": 0.25, "v_sparsity": 0.25, "mlp_sparsity": 0.25, "hidden_sparsity": 0.1}
    exact = accuracy(prune(trained_swin, digits[0][:64], "projection", **shares), images, labels)
    pruned = prune(copy.deepcopy(trained_swin).to(torch.bfloat16), digits[0][:64], "projection", **shares)
    assert pruned.dtype == torch.bfloat16
    assert accuracy(pruned, images, labels) > exact - 0.05

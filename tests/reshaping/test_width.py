"""The width in closed form: exact where nothing is lost, least squares where something is."""

import pytest
import torch
import torch.nn.functional as F
from transformers import ViTModel

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.reshaping.width import reshape_stream, rotation
from optimum_snp.structure import describe
from tests.helpers import SOURCE_CLASSES, accuracy, build_source
from tests.reshaping.test_refit import inputs_of, lstsq, outputs_of, prune


def rotated(model, statistics):
    """The weights with every stream rotated to all of its axes; the sizes stay."""
    weights = {name: weight.double() for name, weight in model.state_dict().items()}
    for stream in describe(model).streams:
        reshape_stream(weights, stream, rotation(stream, statistics, stream.width), statistics)
    return weights


@pytest.mark.parametrize("class_name", SOURCE_CLASSES)
def test_a_rotation_to_all_axes_is_the_same_function(class_name, pixel_values):
    """On images never seen: no direction is dropped, and layer norms do not notice."""
    source = build_source(class_name)
    model = convert(source)
    weights = rotated(model, collect_statistics(model, torch.randn(20, 3, 32, 32), num_samples=20))
    before = model.base_model.layers[0].mlp.fc2.weight.clone()
    model.load_state_dict(weights)
    assert not torch.allclose(model.base_model.layers[0].mlp.fc2.weight, before, atol=0.01)
    torch.testing.assert_close(outputs_of(model, pixel_values), outputs_of(source, pixel_values), rtol=0, atol=1e-4)


def test_queries_without_bias_get_one(pixel_values):
    source = build_source("ViTForImageClassification", qkv_bias=False)
    pruned = prune(source, torch.randn(20, 3, 32, 32), "projection", hidden_sparsity=0.1)
    assert pruned.config.qkv_bias
    assert pruned.base_model.layers[0].attention.q_proj.bias.abs().max() > 0


def low_rank(class_name, rank):
    """A model whose stream fills `rank` dimensions."""
    source = build_source(class_name)
    basis = torch.linalg.qr(torch.randn(48, rank)).Q
    projection = basis @ basis.T
    base_model = source.base_model
    writers = [base_model.embeddings.patch_embeddings.projection]
    for layer in base_model.layers:
        writers += [layer.attention.o_proj, layer.mlp.fc2]
    vectors = [base_model.embeddings.cls_token, base_model.embeddings.position_embeddings]
    if class_name.startswith("DeiT"):
        vectors.append(base_model.embeddings.distillation_token)
    with torch.no_grad():
        for writer in writers:
            writer.weight.copy_(torch.tensordot(projection, writer.weight, dims=1))
            writer.bias.copy_(projection @ writer.bias)
        for vector in vectors:
            vector.copy_(vector @ projection)
    return source


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_a_stream_of_low_rank_loses_nothing(class_name, pixel_values):
    source = low_rank(class_name, rank=29)  # 30 with the direction of equal channels
    pruned = prune(source, torch.randn(20, 3, 32, 32), "projection", hidden_sparsity=18 / 48)
    assert pruned.config.hidden_size == 30
    torch.testing.assert_close(outputs_of(pruned, pixel_values), outputs_of(source, pixel_values), rtol=0, atol=1e-4)


def test_axes_are_those_of_the_normalised_streams(source, pixel_values):
    model = convert(source)
    (stream,) = describe(model).streams
    directions = rotation(stream, collect_statistics(model, pixel_values, num_samples=6), 20)
    torch.testing.assert_close(directions.T @ directions, 20 / 48 * torch.eye(20).double())
    torch.testing.assert_close(torch.ones(48).double() @ directions, torch.ones(20).double())
    with torch.no_grad():
        states = model(pixel_values, output_hidden_states=True).hidden_states
    after = []
    for layer in model.base_model.layers:
        layer.layernorm_after.register_forward_pre_hook(lambda _module, inputs: after.append(inputs[0]))
    with torch.no_grad():
        model(pixel_values)
    streams = [*states[:-1], *after, states[-1][:, :1]]
    rows = [F.layer_norm(stream, (48,)).double().flatten(0, 1) for stream in streams]
    stacked = torch.cat([row / len(row) ** 0.5 for row in rows])
    _, values, axes = torch.linalg.svd(stacked, full_matrices=False)
    assert (values[18] - values[19]) / values[0] > 1e-3  # else the last axis would be arbitrary
    expected = torch.cat((axes[:19], torch.full((1, 48), 48**-0.5).double()))
    torch.testing.assert_close(
        directions @ directions.T * 48 / 20, expected.T @ expected, rtol=0, atol=1e-4
    )  # fmt: skip


def test_readers_are_least_squares_on_raw_activations(trained, digits):
    """The first queries, on what a layer norm would make of the kept axes if nothing were missing."""
    images = digits[0][:64]
    model = convert(trained)
    statistics = collect_statistics(model, images, num_samples=64)
    kept = rotation(describe(model).streams[0], statistics, 30)
    kept = kept - kept.mean(1, keepdim=True)
    pruned = prune(trained, images, "projection", hidden_sparsity=18 / 48)
    layer, fitted = model.base_model.layers[0], pruned.base_model.layers[0]
    normalised = F.layer_norm(inputs_of(model, "layernorm_before", images)[0], (48,), eps=1e-12)
    inputs = inputs_of(model, "attention.q_proj", images)[0]
    targets = inputs @ layer.attention.q_proj.weight.double().T + layer.attention.q_proj.bias
    states = normalised @ kept
    states = states * (30 * len(states) / states.square().sum()).sqrt()  # a layer norm puts out variance 1
    weight, bias = lstsq(states, targets)
    least = (states @ weight.T + bias - targets).square().sum()
    q_proj = fitted.attention.q_proj
    found = (states @ q_proj.weight.double().T + q_proj.bias - targets).square().sum()
    without = (layer.attention.q_proj.weight * layer.layernorm_before.weight).double() @ kept * 48 / 30
    plain = (targets - normalised @ kept @ without.T).var(0, correction=0).sum() * len(targets)
    assert least <= found < least + 0.05 * (plain - least)


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_held_out_accuracy(trained, digits, method):
    images, labels = digits[0][-500:], digits[1][-500:]
    dense = accuracy(trained, images, labels)
    selected, found = (
        accuracy(prune(trained, digits[0][:64], name, hidden_sparsity=0.25), images, labels)
        for name in ("snp", method)
    )
    assert found > selected
    if method == "projection":
        assert found > 0.95 * dense


def test_a_rotated_model_can_be_pruned_again(trained, digits):
    images, labels = digits[0][-500:], digits[1][-500:]
    pruner = SNPPruner.from_pretrained(trained)
    sizes = []
    for _ in range(2):
        pruner.calibrate(digits[0][:64])
        model = pruner.prune(SNPConfig(method="projection", hidden_sparsity=0.1, mlp_sparsity=0.2))
        sizes.append(model.config.hidden_size)
    assert sizes == [43, 39]
    assert accuracy(model, images, labels) > 0.95 * accuracy(trained, images, labels)
    pruner.calibrate(digits[0][:64])
    model = pruner.prune(SNPConfig(method="snp-refit", hidden_sparsity=0.1))
    assert accuracy(model, images, labels) > 0.5


def test_features_without_a_head_are_the_kept_axes(pixel_values):
    """Nothing reads the last norm of a bare model: its features are rotated, and as many as were kept."""
    source = ViTModel(low_rank("ViTModel", rank=29).config, add_pooling_layer=False).eval()
    source.load_state_dict({k: v for k, v in low_rank("ViTModel", rank=29).state_dict().items() if "pooler" not in k})
    pruned = prune(source, torch.randn(20, 3, 32, 32), "projection", hidden_sparsity=18 / 48)
    with torch.no_grad():
        features, dense = (model(pixel_values).last_hidden_state for model in (pruned, source))
    scale = source.layernorm.weight
    normalised = (dense - source.layernorm.bias) / scale * scale.square().mean().sqrt()
    assert features.shape[-1] == 30
    torch.testing.assert_close(features @ features.mT, normalised @ normalised.mT, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
@pytest.mark.parametrize("class_name", ["ViTModel", "DeiTModel"])
def test_the_public_features_of_a_model_with_a_pooler_keep_their_scale(class_name, method, pixel_values):
    """The final norm's scale and shift belong to `last_hidden_state`, not to the pooler alone."""
    source = build_source(class_name)
    with torch.no_grad():
        source.layernorm.weight.add_(torch.rand(48) * 2)
        source.layernorm.bias.add_(1.0)
        expected = source(pixel_values)
    pruner = SNPPruner.from_pretrained(source)
    pruned = pruner.prune(
        SNPConfig(method=method, hidden_sparsity=1 / 48), calibration_dataset=torch.randn(64, 3, 32, 32)
    )
    with torch.no_grad():
        actual = pruned(pixel_values)
    states, dense = actual.last_hidden_state, expected.last_hidden_state
    if method == "snp-refit":
        dense = dense[..., pruner.pruning_plan.widths[0].kept]
        assert (states - dense).norm() < 0.1 * dense.norm()
    else:  # rotated; of the scale only its size is left
        scale = float(source.layernorm.weight.square().mean().sqrt())
        assert float(states.square().mean().sqrt()) == pytest.approx(scale, rel=0.05)
    assert (actual.pooler_output - expected.pooler_output).norm() < 0.3 * expected.pooler_output.norm()

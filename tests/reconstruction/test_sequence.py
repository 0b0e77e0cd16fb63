import pytest
import torch
import torch.nn.functional as F

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.devices import put_back
from optimum_snp.families import convert
from optimum_snp.processes import process_state
from optimum_snp.reconstruction import reconstruct
from optimum_snp.reconstruction.regression import ridge_for
from optimum_snp.reconstruction.token_weights import token_weights
from tests.helpers import build_source
from tests.reconstruction.test_regression import direct_solution


IMAGES = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(7))
SHARES = {"qk_sparsity": 0.4, "v_sparsity": 0.4, "mlp_sparsity": 0.5}
CLASSES = (
    "ViTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "SwinForImageClassification",
    "SwinBackbone",
    "ViTModel",
)


def calibrated(class_name, **options):
    pruner = SNPPruner(build_source(class_name, **options))
    pruner.calibrate(IMAGES, len(IMAGES), batch_size=16)
    return pruner


def outputs(model, images=IMAGES):
    with torch.no_grad():
        found = model(images)
    if "logits" in found:
        return found.logits
    return found.feature_maps[-1] if "feature_maps" in found else found.last_hidden_state


def error(model, dense):
    return (outputs(model) - outputs(dense)).square().mean().item()


@torch.no_grad()
def context(attention, states):
    """The input of the output layer, by plain attention."""

    def heads(projection, size):
        return projection(states).unflatten(-1, (attention.num_attention_heads, size)).transpose(1, 2)

    query, key = (heads(layer, attention.qk_head_dim) for layer in (attention.q_proj, attention.k_proj))
    scores = F.softmax(query @ key.mT * attention.scaling, dim=-1)
    return (scores @ heads(attention.v_proj, attention.v_head_dim)).transpose(1, 2).flatten(2)


def neurons(layer, stream):
    return layer.mlp.activation_fn(layer.mlp.fc1(layer.layernorm_after(stream)))


def assert_is_regression(layer, before, inputs, targets, weights=None):
    weights = None if weights is None else weights.repeat(len(inputs))
    expected, bias = direct_solution(
        inputs.flatten(0, -2), targets.flatten(0, -2), before, ridge_for([IMAGES]), with_bias=True, row_weights=weights
    )
    assert torch.allclose(layer.weight.double(), expected, atol=1e-4)
    assert torch.allclose(layer.bias.double(), bias, atol=1e-4)


def weights_of_first_batch(pruner):
    device = process_state().device
    with put_back(pruner.model):
        weights = token_weights(pruner.model.to(device), next(pruner.calibration_images.batches()))
    return {name: tensor.cpu() for name, tensor in weights.items()}


@torch.no_grad()
@pytest.mark.parametrize("width", [0.0, 0.25])
def test_every_layer_is_the_regression_of_what_is_missing(width):
    pruner = calibrated("ViTForImageClassification")
    dense, config = pruner.model, SNPConfig(method="snp", hidden_sparsity=width, **SHARES)
    plan = pruner.plan(config)
    start = pruner.copy().prune(plan)
    found = pruner.copy().prune(pruner.plan(SNPConfig.from_dict({**config.to_dict(), "reconstruction": True})))
    kept = plan.widths[0].kept
    weights = weights_of_first_batch(pruner)

    stream, dense_stream = found.snp_vit.embeddings(IMAGES), dense.snp_vit.embeddings(IMAGES)
    assert torch.equal(stream, dense_stream[..., kept])
    for name, (layer, start_layer, dense_layer) in enumerate(
        zip(found.snp_vit.layers, start.snp_vit.layers, dense.snp_vit.layers, strict=True)
    ):
        name = f"snp_vit.layers.{name}"
        assert torch.equal(layer.mlp.fc1.weight, start_layer.mlp.fc1.weight)
        dense_stream = dense_stream + dense_layer.attention(dense_layer.layernorm_before(dense_stream))[0]
        inputs = context(layer.attention, layer.layernorm_before(stream))
        output = layer.attention.o_proj
        missing, of_tokens = dense_stream[..., kept] - stream, weights[f"{name}.attention.o_proj"]
        assert_is_regression(output, start_layer.attention.o_proj.weight, inputs, missing, of_tokens)
        stream = stream + output(inputs)

        dense_stream = dense_stream + dense_layer.mlp(dense_layer.layernorm_after(dense_stream))
        inputs = neurons(layer, stream)
        missing, of_tokens = dense_stream[..., kept] - stream, weights[f"{name}.mlp.fc2"]
        assert_is_regression(layer.mlp.fc2, start_layer.mlp.fc2.weight, inputs, missing, of_tokens)
        stream = stream + layer.mlp.fc2(inputs)
    inputs = found.snp_vit.layernorm(stream)[:, :1]
    targets = dense.classifier(dense.snp_vit.layernorm(dense_stream)[:, :1])
    assert_is_regression(found.classifier, start.classifier.weight, inputs, targets)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("method", ["projection", "snp-refit", "snp"])
def test_pruned_models_come_closer_to_the_dense_one(class_name, method):
    pruner = calibrated(class_name)
    closed, found = (
        pruner.copy().prune(SNPConfig(method=method, reconstruction=given, **SHARES)) for given in (False, True)
    )
    assert error(found, pruner.model) < error(closed, pruner.model)


@pytest.mark.parametrize("method", ["projection", "snp-refit", "snp"])
@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_narrower_streams_come_closer(class_name, method):
    pruner = calibrated(class_name)
    closed, found = (
        pruner.copy().prune(SNPConfig(method=method, reconstruction=given, hidden_sparsity=0.25))
        for given in (False, True)
    )
    assert error(found, pruner.model) < error(closed, pruner.model)


@pytest.mark.parametrize("dropped", [[0], [1], [2], [0, 1], [1, 2]])
def test_what_dropped_blocks_added_falls_to_others(dropped):
    pruner = calibrated("ViTForImageClassification")
    closed, found = (
        pruner.copy().prune(SNPConfig(dropped_blocks=dropped, reconstruction=given)) for given in (False, True)
    )
    assert error(found, pruner.model) < error(closed, pruner.model) / 2


@torch.no_grad()
def test_the_last_layer_makes_up_for_blocks_dropped_behind_it():
    pruner = calibrated("ViTForImageClassification")
    dense = pruner.model
    found = pruner.copy().prune(SNPConfig(dropped_blocks=[1, 2], reconstruction=True))
    streams = dense.snp_vit(IMAGES, output_hidden_states=True).hidden_states
    layer, dense_layer = found.snp_vit.layers[0], dense.snp_vit.layers[0]
    stream = streams[0] + layer.attention(layer.layernorm_before(streams[0]))[0]
    assert torch.allclose(layer.attention.o_proj.weight, dense_layer.attention.o_proj.weight, atol=1e-5)
    weights = weights_of_first_batch(pruner)["snp_vit.layers.0.mlp.fc2"]
    missing = streams[-1] - stream
    assert_is_regression(layer.mlp.fc2, dense_layer.mlp.fc2.weight, neurons(layer, stream), missing, weights)


def test_swin_blocks_dropped_in_the_middle_of_a_stage():
    pruner = calibrated("SwinForImageClassification")
    closed, found = (
        pruner.copy().prune(SNPConfig(dropped_blocks=[1, 3], reconstruction=given)) for given in (False, True)
    )
    assert error(found, pruner.model) < error(closed, pruner.model)


def test_nothing_pruned_is_the_dense_model():
    pruner = calibrated("ViTForImageClassification")
    found = pruner.copy().prune(SNPConfig(reconstruction=True, qk_sparsity=0.0))
    assert torch.allclose(outputs(found), outputs(pruner.model), atol=1e-4)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_no_other_weight_changes_and_no_model_but_the_pruned_one(class_name):
    pruner = calibrated(class_name)
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    pruner.model.train()
    closed, found = (
        pruner.copy().prune(SNPConfig(reconstruction=given, **SHARES)).state_dict() for given in (False, True)
    )
    assert pruner.model.training
    assert all(torch.equal(weight, before[name]) for name, weight in pruner.model.state_dict().items())
    changed = {name for name in found if not torch.equal(found[name], closed[name])}
    assert changed
    assert all(any(part in name for part in ("o_proj", "fc2", "classifier")) for name in changed)


def test_layers_without_bias_get_none():
    dense = convert(build_source("SwinForImageClassification"))
    pruned = convert(build_source("SwinForImageClassification"))
    with torch.no_grad():
        pruned.snp_swin.stages[0].blocks[0].mlp.fc2.weight.mul_(0.5)
    pruned.snp_swin.stages[0].blocks[1].mlp.fc2.bias = None
    reconstruct(dense, pruned, list(range(5)), {}, IMAGES.to(process_state().device).split(16))
    assert pruned.snp_swin.stages[0].blocks[1].mlp.fc2.bias is None
    assert torch.isfinite(outputs(pruned)).all()

"""The moments are those of activations that numpy computes from the weights and the hidden states."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import CalibrationStatistics, collect_statistics
from optimum_snp.calibration.moments import ROUNDED_FROM, Scratch, add_outer_products, place_of_sums
from optimum_snp.families import convert
from optimum_snp.structure import describe
from tests.helpers import SWIN_CLASSES, build_source
from tests.swin_reference import swin_reference


def weights_of(linear):
    bias = np.zeros(linear.out_features) if linear.bias is None else linear.bias.detach().double().numpy()
    return linear.weight.detach().double().numpy(), bias


def apply(linear, inputs):
    weight, bias = weights_of(linear)
    return inputs @ weight.T + bias


def normalise(stream, eps):
    centred = stream - stream.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def affine(norm, normalised):
    return normalised * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy()


def activations(model, pixel_values):
    """Per block the rows that the moments sum over, computed without hooks; heads first where there are heads."""
    base_model, eps = model.base_model, model.config.layer_norm_eps
    with torch.no_grad():
        streams = base_model(pixel_values, output_hidden_states=True).hidden_states
    blocks = []
    for layer, stream in zip(base_model.layers, streams, strict=False):
        attention, stream = layer.attention, stream.double().numpy()
        heads = attention.num_attention_heads

        def split(states, heads=heads):
            return states.reshape(*states.shape[:2], heads, -1).transpose(2, 0, 1, 3)  # [heads, images, tokens, d]

        before = normalise(stream, eps)
        inputs = affine(layer.layernorm_before, before)
        query, key, value = (split(apply(getattr(attention, f"{name}_proj"), inputs)) for name in "qkv")
        scores = np.exp(query @ key.swapaxes(-1, -2) * attention.scaling)
        context = (scores / scores.sum(-1, keepdims=True) @ value).transpose(1, 2, 0, 3)
        context = context.reshape(*stream.shape[:2], -1)
        after = normalise(stream + apply(attention.o_proj, context), eps)
        hidden = apply(layer.mlp.fc1, affine(layer.layernorm_after, after))
        mlp = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        key = key - key.mean(2, keepdims=True)
        blocks.append({"query": query, "key": key, "context": context, "mlp": mlp, "before": before, "after": after})
    return blocks, normalise(streams[-1].double().numpy(), eps)


def check(sums, prefix, rows, has_sum=True):
    rows = np.asarray(rows)
    by_head = rows.ndim == 4
    rows = rows.reshape(rows.shape[0], -1, rows.shape[-1]) if by_head else rows.reshape(-1, rows.shape[-1])
    expected = np.swapaxes(rows, -1, -2) @ rows
    np.testing.assert_allclose(sums[f"{prefix}moment"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    if has_sum:
        assert sums[f"{prefix}num_tokens"] == len(rows)
        np.testing.assert_allclose(sums[f"{prefix}sum"], rows.sum(0), atol=1e-4 * np.abs(rows).sum(0).max())


@pytest.mark.parametrize("batch_size", [6, 4])
@pytest.mark.parametrize(
    ("class_name", "num_final"),
    [("ViTForImageClassification", 1), ("DeiTForImageClassification", 2), ("ViTModel", 17)],
)
def test_moments_are_those_of_the_activations(class_name, num_final, batch_size, pixel_values):
    options = {"add_pooling_layer": False} if class_name == "ViTModel" else {}
    model = convert(build_source(class_name) if not options else without_pooler())
    statistics = collect_statistics(model, pixel_values, num_samples=6, batch_size=batch_size)
    blocks, final = activations(model, pixel_values)
    base = "" if model is model.base_model else "snp_vit."
    for index, (sums, rows) in enumerate(zip(statistics.blocks, blocks, strict=True)):
        for name in ("query", "key"):
            check(sums, f"{name}_", rows[name], has_sum=False)
        for name in ("context", "mlp"):
            check(sums, f"{name}_", rows[name])
        for name in ("before", "after"):
            check(statistics.norms[f"{base}layers.{index}.layernorm_{name}"], "", rows[name])
    assert len(statistics.norms) == 2 * len(blocks) + 1
    check(statistics.norms[f"{base}layernorm"], "", final[:, :num_final])


def without_pooler():
    from transformers import ViTModel

    return ViTModel(build_source("ViTModel").config, add_pooling_layer=False).eval()


@pytest.mark.parametrize("size", [32, 24, 20])
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_moments_of_a_swin_are_those_of_transformers(class_name, size, pixel_values):
    """Images of 8, 6 and 5 x 5 patches, windows of 3 x 3: the first pad everywhere, the second nowhere, the last also
    pad the patch merging. Queries and keys of the padding count, all else runs over the tokens of the images.
    """
    options = {"out_features": ["stem", "stage1", "stage2"]} if class_name == "SwinBackbone" else {}
    source, images = build_source(class_name, image_size=size, **options), pixel_values[..., :size, :size]
    reference = swin_reference(source, images)
    model = convert(source)
    statistics = collect_statistics(model, images, num_samples=6, batch_size=4)
    base = "" if model is model.base_model else "snp_swin."
    blocks = iter(zip(statistics.blocks, reference.blocks, strict=True))
    for stage, depth in enumerate((2, 3)):
        for index in range(depth):
            sums, rows = next(blocks)
            check(sums, "query_", rows.query, has_sum=False)
            check(sums, "key_", rows.key - rows.key.mean(2, keepdim=True), has_sum=False)
            for name in ("context", "mlp"):
                check(sums, f"{name}_", getattr(rows, name))
            for name in ("before", "after"):
                norm = statistics.norms[f"{base}stages.{stage}.blocks.{index}.layernorm_{name}"]
                check(norm, "", getattr(rows, name))
    check(statistics.norms[f"{base}stages.0.downsample.norm"], "", reference.merging[0])
    norms = 2 * len(reference.blocks) + 2
    final = statistics.norms[f"{base}layernorm"]
    if class_name == "SwinBackbone":
        assert not final["num_tokens"] and not final["moment"].any()  # it never runs
        for name, states in zip(source.stage_names, [reference.stem, *reference.states], strict=True):
            rows = normalise(states.numpy(), 1e-5)
            check(statistics.norms[f"hidden_states_norms.{name}"], "", rows)
        norms += 3
    else:
        rows = normalise(reference.states[-1].numpy(), 1e-5)
        check(final, "", rows.mean(1) if class_name == "SwinForImageClassification" else rows)
    assert len(statistics.norms) == norms


def outer_products(rows):
    channels = rows.shape[1]
    moment, total = torch.zeros(channels, channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    add_outer_products(moment, total, rows, Scratch())
    return moment.triu() + moment.triu(1).mT, total


@pytest.mark.parametrize("channels", [8, 250])
def test_a_large_mean_costs_the_covariance_no_digits(channels):
    rows = torch.randn(1000, channels, dtype=torch.float64) + 1000
    rows = rows.float().double()
    moment, total = outer_products(rows.float())
    mean = total / 1000
    torch.testing.assert_close(
        moment / 1000 - torch.outer(mean, mean), torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(total, rows.sum(0), rtol=1e-12, atol=0)


def test_fast_products_are_those_of_rounded_rows():
    rows = torch.randn(2000, ROUNDED_FROM) * torch.logspace(-3, 0, ROUNDED_FROM)
    moment, _ = outer_products(rows)
    lengths = (rows.double() ** 2).sum(0).sqrt()
    error = (moment - rows.double().T @ rows.double()) / torch.outer(lengths, lengths)
    assert error.abs().max() < 2**-8


def test_the_precision_of_other_products_stays():
    matrix = torch.randn(ROUNDED_FROM, ROUNDED_FROM)
    before = matrix @ matrix
    outer_products(matrix)
    assert torch.equal(matrix @ matrix, before)


def test_nothing_summed_is_zero():
    moment, total = outer_products(torch.zeros(0, 4))
    assert not moment.any() and not total.any()


def test_size_does_not_grow_with_the_images(source):
    model = convert(source)
    few, many = (collect_statistics(model, torch.randn(n, 3, 32, 32), num_samples=n) for n in (2, 12))
    for one, other in zip([*few.blocks, *few.norms.values()], [*many.blocks, *many.norms.values()], strict=True):
        assert {name: tensor.shape for name, tensor in one.items()} == {
            name: tensor.shape for name, tensor in other.items()
        }


def test_saved_moments_are_read_back(source, pixel_values, tmp_path):
    statistics = collect_statistics(convert(source), pixel_values, num_samples=6)
    statistics.save(tmp_path / "statistics.safetensors")
    loaded = CalibrationStatistics.load(tmp_path / "statistics.safetensors")
    assert loaded.has_moments
    assert loaded.norms.keys() == statistics.norms.keys()
    for name, sums in statistics.norms.items():
        assert all(torch.equal(loaded.norms[name][key], tensor) for key, tensor in sums.items())
    assert torch.equal(loaded.blocks[1]["mlp_moment"], statistics.blocks[1]["mlp_moment"])


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_without_moments_the_closed_forms_say_what_is_missing(source, pixel_values, method):
    pruner = SNPPruner.from_pretrained(source)
    statistics = pruner.calibrate(pixel_values, num_samples=6, moments=False)
    assert not statistics.has_moments
    with pytest.raises(ValueError, match="needs second moments"):
        pruner.plan(SNPConfig(method=method, qk_sparsity=0.5))
    pruner.prune(SNPConfig(method="snp", qk_sparsity=0.5))


NUM_SUMS = 58_537  # of the source below, all of float64


@pytest.mark.parametrize(
    ("free", "expected"), [(8 * NUM_SUMS * 4, "other"), (8 * NUM_SUMS * 4 - 8, "cpu"), (None, "cpu")]
)
def test_sums_are_kept_on_the_device_where_they_take_a_quarter_of_its_memory(free, expected, source, monkeypatch):
    statistics = SNPPruner(source).calibrate(torch.zeros(1, 3, 32, 32), sensitivities=False)
    sums = [*statistics.blocks, *statistics.norms.values()]
    assert sum(tensor.numel() for found in sums for tensor in found.values()) == NUM_SUMS
    module = SimpleNamespace(memory_reserved=lambda device: 0, memory_allocated=lambda device: 0)
    if free is not None:
        module.mem_get_info = lambda device: (free, 10**12)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    place = SimpleNamespace(type="other")
    found = place_of_sums(describe(SNPPruner(source).model), place)
    assert found.type == expected

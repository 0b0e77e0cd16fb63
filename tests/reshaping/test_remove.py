"""Heads and blocks removed by the closed-form methods; for selection see test_select.py."""

import copy

import pytest
import torch
from transformers import AutoModelForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.reshaping.remove import remove
from optimum_snp.structure import describe
from tests.helpers import CLASSES, accuracy, build_source, inputs_for
from tests.reshaping.test_refit import check_least_squares, inputs_of


METHODS = ("snp", "snp-refit", "projection")
CLOSED_FORMS = METHODS[1:]
ALL = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5, "hidden_sparsity": 0.25}


def prune(source, images, method, **shares):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(images, num_samples=len(images))
    return pruner.prune(SNPConfig(method=method, **shares)), pruner.pruning_plan


@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_the_output_layer_is_least_squares_on_raw_activations(trained, digits, method):
    """In the first block, and the ridge allowing; also where values are projected in the heads that stay."""
    images = digits[0][:64]
    dense = convert(trained)
    pruned, plan = prune(trained, images, method, head_sparsity=0.3)
    rows = inputs_of(dense, "attention.o_proj", images)[0]
    linear, fitted = (model.base_model.layers[0].attention.o_proj for model in (dense, pruned))
    kept = [head * 16 + neuron for head in plan.blocks[0].heads for neuron in range(16)]
    assert len(kept) == 32
    check_least_squares(rows, kept, linear, fitted)


@pytest.mark.parametrize("model", ["trained", pytest.param("trained_swin", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_moves_the_logits_less_than_selection(model, method, digits, request):
    source = request.getfixturevalue(model)
    images = digits[0][-500:]

    def change(method, **shares):
        pruned, _ = prune(source, digits[0][:64], method, head_sparsity=0.5, **shares)
        with torch.no_grad():
            return (pruned(images).logits - source(images).logits).square().mean()

    assert change(method) < change("snp")
    assert change(method, v_sparsity=0.25) < change("snp", v_sparsity=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_keeps_accuracy_on_held_out_digits(trained, digits, method):
    images, labels = digits[0][-500:], digits[1][-500:]
    dense = accuracy(trained, images, labels)
    assert accuracy(prune(trained, digits[0][:64], method, dropped_blocks=1)[0], images, labels) > 0.5 * dense
    pruned, _ = prune(trained, digits[0][:64], method, head_sparsity=0.3)
    assert accuracy(pruned, images, labels) > (0.85 if method != "snp" else 0.5) * dense


@pytest.mark.parametrize("refits", [False, True])
@pytest.mark.parametrize("class_name", CLASSES)
def test_what_is_left_keeps_its_weights_and_names(class_name, refits):
    model = convert(build_source(class_name))
    statistics = collect_statistics(model, inputs_for(model, 6), num_samples=6)
    structure = describe(model)
    heads = [list(range(block.module.attention.num_attention_heads)) for block in structure.blocks]
    heads[0] = []
    rest, rest_statistics = remove(model, heads, statistics, refits=refits)
    left = describe(rest)
    assert len(left.blocks) == len(structure.blocks) - 1
    for block, old, sums in zip(left.blocks, structure.blocks[1:], rest_statistics.blocks, strict=True):
        for one, other in zip(block.module.parameters(), old.module.parameters(), strict=True):
            assert torch.equal(one, other)
        assert sums is not None
        for norm in ("layernorm_before", "layernorm_after"):
            dense_sums = statistics.norms.get(f"{old.name}.{norm}")  # none where norms write the stream
            assert rest_statistics.norms.get(f"{block.name}.{norm}") is dense_sums
    assert rest_statistics.norms.keys() == {norm.name for stream in left.streams for norm in stream.norms}
    if class_name.startswith("Swin"):
        shifts = [block.module.shift_size for block in structure.blocks]
        assert [block.module.shift_size for block in left.blocks] == shifts[1:]


def test_nothing_to_remove_gives_the_same_model(source):
    model = convert(source)
    assert remove(model, [[0, 1, 2, 3]] * 3, refits=False)[0] is model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_name", ["DeiTForImageClassificationWithTeacher", "SwinForImageClassification"])
def test_saved_and_loaded_it_is_the_same(class_name, method, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    config = SNPConfig(method=method, head_sparsity=0.5, dropped_blocks=1, **ALL)
    pruned = pruner.prune(config, calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).logits, pruned(pixel_values).logits)
    assert SNPPruner.from_pretrained(tmp_path).pruning_plan == pruner.pruning_plan


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_images", [1, 6])
def test_never_nan(method, num_images, source, pixel_values):
    source = copy.deepcopy(source)
    attention = source.base_model.layers[0].attention
    with torch.no_grad():
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
            layer.weight[:24] = 0
            layer.bias[:24] = 0
        source.base_model.layers[1].attention.v_proj.weight.zero_()
        source.base_model.layers[1].attention.v_proj.bias.zero_()
    for images in (pixel_values[:num_images], torch.zeros(num_images, 3, 32, 32)):
        for shares in ({}, ALL):
            pruned, _ = prune(source, images, method, head_sparsity=0.5, dropped_blocks=1, **shares)
            with torch.no_grad():
                assert pruned(pixel_values).logits.abs().max() < 1e3


@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_a_head_that_nothing_reads_goes_at_no_loss(source, pixel_values, method):
    with torch.no_grad():
        for layer in source.base_model.layers:
            layer.attention.o_proj.weight[:, 12:24] = 0
    pruned, plan = prune(source, pixel_values, method, head_sparsity=0.25)
    assert plan.heads == [[0, 2, 3]] * 3
    with torch.no_grad():
        torch.testing.assert_close(pruned(pixel_values).logits, source(pixel_values).logits, rtol=0, atol=1e-5)

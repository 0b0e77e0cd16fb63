"""What is special in BEiT and data2vec-vision: tables of relative positions, and a pooled mean behind its own norm."""

import copy

import pytest
import torch
from torch import nn

from optimum_snp import SNPConfig
from optimum_snp.families import check_supported, convert
from optimum_snp.methods import METHODS
from optimum_snp.structure import architecture_of, describe
from tests.families.cases import IMAGES, Case
from tests.helpers import build_source


CLASSES = ("BeitForImageClassification", "Data2VecVisionForImageClassification")


def expected_bias(table, height, width, block_heads):
    """From its definition: a row of the table for every distance, and three that have to do with the class token."""
    num_tokens = height * width + 1
    bias = torch.zeros(len(block_heads), num_tokens, num_tokens)
    for query in range(num_tokens):
        for key in range(num_tokens):
            if query and key:
                rows = (query - 1) // width - (key - 1) // width + height - 1
                columns = (query - 1) % width - (key - 1) % width + width - 1
                row = rows * (2 * width - 1) + columns
            else:
                row = len(table) - 3 + (2 if not query and not key else 0 if not query else 1)
            bias[:, query, key] = table[row, block_heads]
    return bias


@pytest.mark.parametrize("class_name", CLASSES)
def test_biases_are_those_of_the_table(class_name):
    model = convert(build_source(class_name))
    attention = model.snp_vit.layers[1].attention
    grid, index = model.snp_vit.relative_positions(IMAGES)
    assert grid == (4, 4)
    table = attention.relative_position_bias.table
    assert table.shape == (7 * 7 + 3, 4)
    found = attention.relative_position_bias(grid, index)
    torch.testing.assert_close(found[0], expected_bias(table, 4, 4, range(4)).detach())


@pytest.mark.parametrize("method", METHODS)
def test_tables_lose_the_columns_of_heads_that_go(method):
    pruner = Case("BeitForImageClassification").calibrated.copy()
    dense = copy.deepcopy(pruner.model)
    model = pruner.prune(SNPConfig(method=method, head_sparsity=0.5, dropped_blocks=[1]))
    kept_blocks = [0, 2]
    for index, layer in zip(kept_blocks, model.snp_vit.layers, strict=True):
        heads = pruner.pruning_plan.blocks[index].heads
        assert len(heads) == 2
        table = dense.snp_vit.layers[index].attention.relative_position_bias.table
        assert torch.equal(layer.attention.relative_position_bias.table, table[:, heads])


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_shared_table_is_one_of_every_block(class_name):
    source = build_source(class_name, use_shared_relative_position_bias=True)
    shared = next(weight for name, weight in source.named_parameters() if is_shared_table(name))
    own = [
        weight for name, weight in source.named_parameters() if name.endswith("_bias_table") and weight is not shared
    ]
    assert len(own) == 3
    for layer, table in zip(convert(source).snp_vit.layers, own, strict=True):
        torch.testing.assert_close(layer.attention.relative_position_bias.table, table + shared)


def is_shared_table(name):
    return name.endswith(("shared_position_bias.relative_position_bias_table", "encoder.relative_position_bias."
                          "relative_position_bias_table"))  # fmt: skip


def test_keys_get_a_bias_only_where_the_width_is_refitted():
    pruner = Case("BeitForImageClassification").calibrated
    for options, has_bias in (({"mlp_sparsity": 0.5}, False), ({"hidden_sparsity": 0.25}, True)):
        model = pruner.copy().prune(SNPConfig(**options))
        assert (model.snp_vit.layers[0].attention.k_proj.bias is not None) == has_bias


def test_what_a_bare_model_puts_out():
    """With a pooler the normed mean of the patches, and all tokens as they are; a budget keeps their width."""
    model = convert(build_source("BeitModel"))
    with torch.inference_mode():
        outputs = model(IMAGES, output_hidden_states=True)
        mean = outputs.last_hidden_state[:, 1:].mean(dim=1)
        torch.testing.assert_close(outputs.pooler_output, model.layernorm(mean))
    assert torch.equal(outputs.last_hidden_state, outputs.hidden_states[-1])
    assert len(architecture_of(model.config).features(outputs, model.config)) == 2  # the pooled vector, and tokens
    (stream,) = describe(model).streams
    assert stream.is_output and stream.norms[-1].is_output
    plan = Case("BeitModel").calibrated.plan(SNPConfig(target_flops=0.5))
    assert plan.widths[0].after == 48

    bare = convert(build_source("Data2VecVisionModel"))
    assert isinstance(bare.layernorm, nn.Identity) and bare(IMAGES).pooler_output is None
    assert describe(bare).streams[0].is_output
    assert not describe(convert(build_source("BeitForImageClassification"))).streams[0].is_output


def test_fused_attention_without_biases_is_refused():
    model = convert(build_source("BeitModel"))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"'flash_attention_2' adds no biases .* Choose 'sdpa' or 'eager'"):
        model(IMAGES)


@pytest.mark.parametrize(
    ("class_name", "message"),
    [
        ("BeitForSemanticSegmentation", "Prune a BeitBackbone"),
        ("BeitForMaskedImageModeling", "Prune a BeitModel"),
        ("Data2VecVisionForSemanticSegmentation", "Prune a Data2VecVisionModel"),
        ("Data2VecTextModel", "it reads text or sound. Of data2vec, Data2VecVisionModel"),
        ("Data2VecAudioModel", "it reads text or sound"),
    ],
)
def test_the_nearest_class_is_named(class_name, message):
    with pytest.raises(ValueError, match=f"{class_name} cannot be pruned: .*{message}"):
        check_supported(class_name)


def test_what_has_no_place_is_refused():
    with pytest.raises(ValueError, match=r"image_size is \[32, 48\].* as squares"):
        convert(build_source("BeitModel", image_size=[32, 48]))
    fpn = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "add_fpn": True}
    with pytest.raises(ValueError, match=r"add_fpn is True.*behind the pruned backbone"):
        convert(build_source("BeitBackbone", **fpn))

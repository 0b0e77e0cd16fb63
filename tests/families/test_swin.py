"""What is special in the conversion of Swin; the rest is in the contract of all families."""

import copy

import pytest
import torch
import transformers

from optimum_snp.families import convert
from optimum_snp.models import SNPSwinBackbone, SNPSwinForImageClassification, SNPSwinModel
from tests.helpers import SWIN_CLASSES, build_source


ALL_MAPS = {"out_indices": [0, 1, 2]}
OPTIONS = [
    {"qkv_bias": False},
    {"layer_norm_eps": 1e-2, "hidden_act": "relu"},
    {"window_size": 2},
    {"window_size": 4},  # as large as the map of the second stage
    {"use_absolute_embeddings": True},
    {"depths": [1, 2, 1], "num_heads": [1, 3, 4], "window_size": 2},
    {"mlp_ratio": 1.5, "patch_size": 2},
    {"image_size": [32, 20]},
]
SIZES = [(32, 32), (36, 36), (50, 33), (33, 64)]


def assert_same_outputs(expected, actual):
    """Every output, hidden states, attentions and feature maps included, is the same to 1e-5."""
    assert list(actual) == list(expected)
    for name in expected:
        pair = (expected[name], actual[name])
        for one, other in zip(*pair, strict=True) if isinstance(pair[0], tuple) else [pair]:
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


def run_both(source, images, **options):
    """Both outputs with everything that can be asked for. The source is copied: small images change its windows."""
    converted = convert(source)
    options.update(output_hidden_states=True, output_attentions=True)
    with torch.inference_mode():
        return copy.deepcopy(source)(images, **options), converted(images, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_same_function(class_name, options):
    source = build_source(class_name, attn_implementation="eager", **ALL_MAPS, **options)
    size = options.get("image_size", [32, 32])
    assert_same_outputs(*run_both(source, torch.randn(2, 3, *size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"window_size": 4}])
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_same_function_on_other_image_sizes(class_name, options, size):
    source = build_source(class_name, attn_implementation="eager", **ALL_MAPS, **options)
    assert_same_outputs(*run_both(source, torch.randn(2, 3, *size)))


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (48, 64)])
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_same_function_with_interpolated_positions(class_name, size):
    source = build_source(class_name, attn_implementation="eager", use_absolute_embeddings=True)
    assert_same_outputs(*run_both(source, torch.randn(2, 3, *size), interpolate_pos_encoding=True))


def test_map_smaller_than_a_window_reads_the_part_of_the_table_that_fits():
    """transformers stops there, so the reference is its model with smaller windows and the middle of the tables."""
    options = {"depths": [2], "num_heads": [2], "attn_implementation": "eager"}
    source = build_source("SwinModel", window_size=3, **options)
    smaller = build_source("SwinModel", window_size=2, **options)
    weights = source.state_dict()
    for name, table in weights.items():
        if name.endswith("bias_table"):
            weights[name] = table.view(5, 5, 2)[1:4, 1:4].reshape(9, 2)
    smaller.load_state_dict(weights)
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(convert(source)(images)[0], smaller(images)[0])


def test_without_pooler(pixel_values):
    torch.manual_seed(0)
    source = transformers.SwinModel(build_source("SwinModel").config, add_pooling_layer=False).eval()
    converted = convert(source)
    assert isinstance(converted, SNPSwinModel)
    assert converted(pixel_values).pooler_output is None
    assert convert(converted)(pixel_values).pooler_output is None
    torch.testing.assert_close(converted(pixel_values)[0], source(pixel_values)[0])


def test_mask_token_is_left_out(pixel_values):
    source = transformers.SwinModel(build_source("SwinModel").config, use_mask_token=True).eval()
    torch.testing.assert_close(convert(source)(pixel_values)[0], source(pixel_values)[0])


def test_backbone_keeps_its_feature_maps(pixel_values):
    converted = convert(build_source("SwinBackbone", out_indices=[0, 2]))
    assert isinstance(converted, SNPSwinBackbone)
    assert converted.out_features == converted.config.out_features == ["stem", "stage2"]
    assert converted.channels == [12, 24]
    assert [tuple(feature_map.shape) for feature_map in converted(pixel_values).feature_maps] == [
        (6, 12, 8, 8),
        (6, 24, 4, 4),
    ]


def test_config_keeps_what_the_source_said():
    source = build_source("SwinForImageClassification", id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    config = convert(source).config
    assert config.model_type == "snp_swin"
    assert config.id2label == {0: "cat", 1: "dog"}
    assert (config.depths, config.num_heads, config.window_size) == ([2, 3], [1, 2], 3)
    assert (config.hidden_sizes, config.hidden_size, config.patch_embedding_size) == ([12, 24], 24, None)
    assert config.drop_path_rate == source.config.drop_path_rate == 0.1
    dense = {"qk_head_dim": 12, "v_head_dim": 12, "attention_scale": 12**-0.5}
    first = {**dense, "num_attention_heads": 1, "intermediate_size": 48}
    second = {**dense, "num_attention_heads": 2, "intermediate_size": 96}
    assert config.block_configs == [
        [{**first, "shift_size": shift} for shift in (0, 1)],
        [{**second, "shift_size": shift} for shift in (0, 1, 0)],
    ]


def test_source_stays_whole():
    source = build_source("SwinForImageClassification")
    before = copy.deepcopy(source.state_dict())
    converted = convert(source)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert all(torch.equal(source.state_dict()[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_our_own_model_is_copied(class_name, pixel_values):
    converted = convert(build_source(class_name)).to(torch.bfloat16)
    copied = convert(converted)
    assert type(copied) is type(converted)
    assert copied is not converted
    assert copied.dtype == torch.bfloat16
    assert copied.config.to_dict() == converted.config.to_dict()
    key = "feature_maps" if class_name == "SwinBackbone" else 0
    expected, actual = converted(pixel_values)[key], copied(pixel_values)[key]
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))


def test_model_from_the_code_of_its_checkpoint_becomes_ours(pixel_values):
    converted = convert(build_source("SwinForImageClassification"))
    stranger = type("SNPSwinForImageClassification", (SNPSwinForImageClassification,), {})(converted.config)
    stranger.load_state_dict(converted.state_dict())
    copied = convert(stranger.eval())
    assert type(copied) is SNPSwinForImageClassification
    assert torch.equal(copied(pixel_values).logits, converted(pixel_values).logits)


def test_masked_image_modeling_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"SwinForMaskedImageModeling cannot be pruned. Supported are .*SwinBackbone"):
        convert(transformers.SwinForMaskedImageModeling(build_source("SwinModel").config))

"""What is special in the conversion of ViT and DeiT; the rest is in the contract of all families."""

import copy

import pytest
import torch
import transformers

from optimum_snp.families import convert
from optimum_snp.models import SNPViTForImageClassification, SNPViTModel
from tests.helpers import SOURCE_CLASSES, build_source


TENSORS = ("logits", "cls_logits", "distillation_logits", "last_hidden_state", "pooler_output")


def assert_same_outputs(one, other):
    """Every output of `one`, hidden states and attentions included, is that of `other` to 1e-5."""
    for name in TENSORS:
        if one.get(name) is not None:
            torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=1e-5)
    for name in ("hidden_states", "attentions"):
        assert len(one[name]) == len(other[name]) > 0
        for expected, actual in zip(one[name], other[name], strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"layer_norm_eps": 1e-3, "hidden_act": "relu"}])
@pytest.mark.parametrize("class_name", SOURCE_CLASSES)
def test_same_function(class_name, options, pixel_values):
    source = build_source(class_name, attn_implementation="eager", **options)
    converted = convert(source)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        assert_same_outputs(source(pixel_values, **wanted), converted(pixel_values, **wanted))


def test_without_pooler(pixel_values):
    torch.manual_seed(0)
    source = transformers.ViTModel(build_source("ViTModel").config, add_pooling_layer=False).eval()
    converted = convert(source)
    assert isinstance(converted, SNPViTModel)
    assert converted.pooler is None
    torch.testing.assert_close(converted(pixel_values)[0], source(pixel_values)[0])


def test_config_keeps_what_the_source_said():
    source = build_source("DeiTForImageClassification", id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    config = convert(source).config
    assert config.model_type == "snp_vit"
    assert config.id2label == {0: "cat", 1: "dog"}
    assert config.intermediate_size == 96
    assert config.use_distillation_token
    assert not config.use_distillation_head
    assert config.block_configs[2] == {
        "num_attention_heads": 4,
        "qk_head_dim": 12,
        "v_head_dim": 12,
        "intermediate_size": 96,
        "attention_scale": 12**-0.5,
    }


def test_source_stays_whole(source):
    before = copy.deepcopy(source.state_dict())
    converted = convert(source)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert all(torch.equal(source.state_dict()[name], weight) for name, weight in before.items())


def test_dtype_is_kept(source):
    assert convert(source.to(torch.bfloat16)).dtype == torch.bfloat16


def test_our_own_model_is_copied(source, pixel_values):
    converted = convert(source)
    copied = convert(converted)
    assert isinstance(copied, SNPViTForImageClassification)
    assert copied is not converted
    assert torch.equal(copied(pixel_values).logits, converted(pixel_values).logits)


def test_model_from_the_code_of_its_checkpoint_becomes_ours(source, pixel_values):
    """`AutoModel` gives other classes of the same names when the package was not imported before."""
    converted = convert(source)
    stranger = type("SNPViTForImageClassification", (SNPViTForImageClassification,), {})(converted.config)
    stranger.load_state_dict(converted.state_dict())
    copied = convert(stranger.eval())
    assert type(copied) is SNPViTForImageClassification
    assert torch.equal(copied(pixel_values).logits, converted(pixel_values).logits)


def test_other_classes_are_refused_with_the_list():
    config = transformers.CLIPSegVisionConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    message = r"CLIPSegVisionModel cannot be pruned. Supported are ViTModel, .*WithTeacher.* name is CLIPVisionModel"
    with pytest.raises(ValueError, match=message):
        convert(transformers.CLIPSegVisionModel(config))
    with pytest.raises(TypeError, match="Expected a PreTrainedModel of transformers, got Linear"):
        convert(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(source, value):
    with torch.no_grad():
        source.vit.layers[1].mlp.fc1.weight[3, 4] = value
    with pytest.raises(ValueError, match=r"vit.layers.1.mlp.fc1.weight has values that are NaN or infinite"):
        convert(source)

"""The options of the ViT architecture: what they build, and which are refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import Trainer, TrainingArguments

from optimum_snp import models
from optimum_snp.models import SNPSwinConfig, SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from optimum_snp.structure import describe

from .comparison import VISION_SIZES, assert_same, images_of


@pytest.mark.parametrize(("qkv_bias", "key_bias"), [(True, True), (True, False), (False, True), (False, False)])
def test_key_bias_follows_the_others_unless_stated(qkv_bias, key_bias):
    config = SNPViTConfig(**VISION_SIZES, qkv_bias=qkv_bias)
    assert (SNPViTModel(config).layers[0].attention.k_proj.bias is not None) == qkv_bias
    stated = SNPViTModel(SNPViTConfig(**VISION_SIZES, qkv_bias=qkv_bias, key_bias=key_bias)).layers[0].attention
    assert (stated.k_proj.bias is not None) == key_bias
    assert (stated.q_proj.bias is not None) == (stated.v_proj.bias is not None) == qkv_bias


def test_registers_follow_the_distillation_token():
    torch.manual_seed(0)
    config = SNPViTConfig(**VISION_SIZES, use_distillation_token=True, num_register_tokens=2)
    embeddings = SNPViTModel(config).eval().embeddings
    hidden_states = embeddings(images_of(24, 24))
    assert hidden_states.shape == (2, 1 + 1 + 2 + 9, 24)
    assert embeddings.num_extra_tokens == 4
    torch.testing.assert_close(hidden_states[1, 2:4], embeddings.register_tokens[0])
    torch.testing.assert_close(
        hidden_states[0, 1], embeddings.distillation_token[0, 0] + embeddings.position_embeddings[0, 1]
    )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_norm_behind_the_pooling(pooling):
    """Computed anew from the tokens, which stay as the last block leaves them."""
    torch.manual_seed(0)
    options = {"num_labels": 3, "classifier_pooling": pooling}
    model = SNPViTForImageClassification(SNPViTConfig(**VISION_SIZES, **options, norm_after_pooling=True)).eval()
    torch.nn.init.normal_(model.snp_vit.layernorm.weight)
    torch.nn.init.normal_(model.snp_vit.layernorm.bias)
    images = images_of(24, 24)
    outputs = model(images, output_hidden_states=True)
    tokens = model.snp_vit(images).last_hidden_state
    torch.testing.assert_close(tokens, outputs.hidden_states[-1])
    pooled = tokens[:, 0] if pooling == "cls" else tokens[:, 1:].mean(dim=1)
    norm = model.snp_vit.layernorm
    normed = F.layer_norm(pooled, pooled.shape[1:], norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(outputs.logits, F.linear(normed, model.classifier.weight, model.classifier.bias))
    usual = SNPViTForImageClassification(SNPViTConfig(**VISION_SIZES, **options)).eval()
    usual.load_state_dict(model.state_dict())
    same = torch.allclose(usual(images).logits, outputs.logits, atol=1e-6)
    assert same == (pooling == "cls")  # of one token it makes no difference


def test_a_norm_behind_the_pooling_is_pruned_with_a_classifier_only():
    model = SNPViTModel(SNPViTConfig(**VISION_SIZES, norm_after_pooling=True))
    with pytest.raises(ValueError, match="can only be pruned as an image classifier"):
        describe(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"use_cls_token": False, "classifier_pooling": "cls"},
            "classifier_pooling is 'cls', but use_cls_token is False",
        ),
        (
            {"use_cls_token": False, "classifier_pooling": "cls_mean"},
            "classifier_pooling is 'cls_mean', but use_cls_token is False",
        ),
        ({"use_cls_token": False, "use_pooler": True}, "use_pooler is True, but use_cls_token is False"),
        (
            {"use_cls_token": False, "use_distillation_token": True},
            "use_distillation_token is True, but use_cls_token is False",
        ),
        ({"use_cls_token": "no"}, "use_cls_token must be True or False, got 'no'"),
        ({"use_gated_mlp": None}, "use_gated_mlp must be True or False, got None"),
        ({"key_bias": "yes"}, "key_bias must be True, False or None, got 'yes'"),
        (
            {"classifier_pooling": "max"},
            "classifier_pooling must be 'cls' or 'mean' or 'cls_mean' or 'cls_distillation', got 'max'",
        ),
        (
            {"classifier_pooling": "cls_distillation"},
            "classifier_pooling is 'cls_distillation', but use_distillation_token is False",
        ),
        ({"patch_stride": [4, 0]}, "patch_stride must be a positive integer, got 0"),
        ({"norm_after_pooling": 1}, "norm_after_pooling must be True or False, got 1"),
        ({"norm_after_pooling": True, "use_pooler": True}, "use_pooler is True, but norm_after_pooling norms one"),
        (
            {"norm_after_pooling": True, "classifier_pooling": "cls_mean"},
            "classifier_pooling is 'cls_mean', but norm_after_pooling norms one vector",
        ),
        (
            {"pooler_type": "max"},
            "pooler_type must be 'dense' or 'cls' or 'mean' or 'cls_distillation' or 'attention', got 'max'",
        ),
        (
            {"use_pooler": True, "pooler_type": "cls", "pooler_output_size": 7},
            "pooler_output_size is 7, but pooler_type",
        ),
        ({"num_register_tokens": -1}, "num_register_tokens must be an integer from 0 on, got -1"),
        ({"num_register_tokens": 1.0}, "num_register_tokens must be an integer from 0 on, got 1.0"),
        ({"stage_depths": [1, 0]}, r"stage_depths \[1, 0\] leaves 1 blocks, block_configs has 2"),
        ({"stage_depths": [2]}, r"stage_depths must have 0 or 1 for every block of the dense network, got \[2\]"),
        ({"stage_names": ["stem", "stage1"]}, r"stage_names is \['stem', 'stage1'\], but the other fields say"),
        ({"out_features": ["stage3"]}, r"out_features must be a subset of stage_names.*got \['stage3'\]"),
        ({"out_indices": [5]}, r"out_indices must be valid indices.*got \[5\]"),
        (
            {"out_features": ["stage1"], "out_indices": [2]},
            r"out_indices is \[2\], but out_features \['stage1'\] says",
        ),
        ({"hidden_act": "gellu"}, "hidden_act must be one of .*gelu.*, got 'gellu'"),
        ({"pooler_act": "tanhh"}, "pooler_act must be one of .*tanh.*, got 'tanhh'"),
    ],
)
def test_contradictions_are_refused_naming_field_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        SNPViTConfig(**VISION_SIZES, **options)


def test_mistyped_activation_is_named_wherever_it_is_given(tmp_path):
    SNPViTModel(SNPViTConfig(**VISION_SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"hidden_act must be one of .*, got 'gellu'"):
        SNPViTModel.from_pretrained(tmp_path, hidden_act="gellu")
    with pytest.raises(ValueError, match=r"hidden_act must be one of .*, got 'gellu'"):
        SNPSwinConfig(hidden_act="gellu")


@pytest.mark.parametrize(
    "change",
    [
        {"use_cls_token": False},
        {"num_register_tokens": 4},
        {"use_pre_layernorm": True},
        {"patch_embedding_bias": False},
        {"key_bias": False},
        {"use_gated_mlp": True},
        {"pooler_type": "cls"},
        {"classifier_pooling": "mean"},
        {"stage_depths": [1, 1]},
        {"stage_names": ["stem"]},
        {"apply_layernorm": False},
    ],
)
def test_what_the_weights_decide_is_refused_at_loading(change, tmp_path):
    SNPViTModel(SNPViTConfig(**VISION_SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(change))} cannot be changed while loading"):
        SNPViTModel.from_pretrained(tmp_path, **change)


def test_interpolation_may_be_asked_for_at_loading(tmp_path):
    model = SNPViTModel(SNPViTConfig(**VISION_SIZES)).eval()
    model.save_pretrained(tmp_path)
    loaded = SNPViTModel.from_pretrained(tmp_path, interpolate_pos_encoding=True).eval()
    images = images_of(40, 24)
    with torch.inference_mode():
        expected = model(images, interpolate_pos_encoding=True).last_hidden_state
        assert torch.equal(loaded(images).last_hidden_state, expected)
    with pytest.raises(ValueError, match="40x24 pixels; the model reads 24x24"):
        loaded(images, interpolate_pos_encoding=False)


SWIN = SNPSwinConfig(embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=3, image_size=32)
CONFIGS = {"SNPViT": SNPViTConfig(**VISION_SIZES), "SNPSwin": SWIN}
every_class = pytest.mark.parametrize(
    ("model_class", "config"),
    [
        pytest.param(getattr(models, f"{family}{head}"), config, id=f"{family}{head}")
        for family, config in CONFIGS.items()
        for head in ("Model", "ForImageClassification", "Backbone")
    ],
)


@every_class
def test_arguments_that_transformers_ignores_are_ignored(model_class, config):
    model = model_class(copy.deepcopy(config)).eval()
    images = images_of(config.image_size, config.image_size)
    with torch.inference_mode():
        expected = model(images)
        found = model(images, head_mask=None, attention_mask=None, bool_masked_pos=None, use_cache=True)
        assert_same(found, expected)
        for mask in ("head_mask", "attention_mask", "bool_masked_pos"):
            with pytest.raises(ValueError, match=f"applies no masks, but was given {mask}"):
                model(images, **{mask: torch.ones(1)})


@every_class
def test_attention_changes_from_one_implementation_to_another(model_class, config, monkeypatch):
    model = model_class(copy.deepcopy(config)).eval()
    images = images_of(config.image_size, config.image_size)
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *inputs, **options: calls.append(1) or fused(*inputs, **options)
    )
    with torch.inference_mode():
        outputs = model(images)
        num_calls = len(calls)
        model.set_attn_implementation("eager")
        assert_same(model(images), outputs)
    assert len(calls) == num_calls == 2


@every_class
def test_a_trainer_passes_the_number_of_images_to_classifiers_alone(model_class, config, tmp_path):
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True)
    trainer = Trainer(model_class(copy.deepcopy(config)), args)
    assert trainer.model_accepts_loss_kwargs == model_class.__name__.endswith("ForImageClassification")


def test_configs_of_before_build_what_they_did():
    """None of the options is on where a config.json does not have it."""
    fields = SNPViTConfig(**VISION_SIZES).to_dict()
    before = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0,
        "initializer_range": 0.02, "layer_norm_eps": 1e-12, "image_size": 24, "patch_size": 8, "num_channels": 3,
        "qkv_bias": True, "use_distillation_token": False, "use_distillation_head": False, "use_pooler": False,
        "pooler_output_size": 24, "pooler_act": "tanh", "norm_type": "layer",
        "block_configs": fields["block_configs"], "model_type": "snp_vit",
    }  # fmt: skip
    assert SNPViTConfig.from_dict(before).to_dict() == fields
    names = set(SNPViTModel(SNPViTConfig.from_dict(before)).state_dict())
    inside = {
        f"{module}.{kind}"
        for module in (
            *("layernorm_before", "layernorm_after", "mlp.fc1", "mlp.fc2"),
            *(f"attention.{part}_proj" for part in "qkvo"),
        )
        for kind in ("weight", "bias")
    }
    assert names == {
        *("embeddings.cls_token", "embeddings.position_embeddings", "layernorm.weight", "layernorm.bias"),
        *(f"embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")),
        *(f"layers.{layer}.{name}" for layer in range(2) for name in inside),
    }

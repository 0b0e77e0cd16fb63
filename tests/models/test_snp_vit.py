"""The pruned architecture: what HF models have, for blocks of any sizes."""

import copy

import pytest
import torch
import torch.nn.functional as F

from optimum_snp.models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from tests.helpers import checkpoint_activations
from tests.models.comparison import record_attention


def block(heads=2, qk=5, v=9, mlp=20, scale=0.3):
    return {
        "num_attention_heads": heads,
        "qk_head_dim": qk,
        "v_head_dim": v,
        "intermediate_size": mlp,
        "attention_scale": scale,
    }


UNEQUAL_BLOCKS = [block(), block(heads=3, qk=11, v=4, mlp=7), block(heads=1, qk=6, v=6)]


def build(model_class=SNPViTForImageClassification, implementation="sdpa", **options):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "block_configs": UNEQUAL_BLOCKS}
    config = SNPViTConfig(**{**sizes, "num_labels": 4, "initializer_range": 0.2, **options})
    config._attn_implementation = implementation
    return model_class(config).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_sdpa_equals_eager_for_unequal_sizes(images, device):
    eager, fused = (build(implementation=implementation).to(device) for implementation in ("eager", "sdpa"))
    images = images.to(device)
    torch.testing.assert_close(fused(images).logits, eager(images).logits, atol=1e-5, rtol=1e-5)


def test_fused_attention_always_sees_one_size(images, monkeypatch):
    calls = record_attention(monkeypatch)
    build()(images)
    assert [tuple(states.shape[-1] for states in call) for call in calls] == [(9, 9, 9), (11, 11, 11), (6, 6, 6)]


@pytest.mark.parametrize(("qk", "v"), [(1, 8), (8, 1)])
def test_a_head_alone_keeps_the_strides_that_kernels_take(qk, v, images, monkeypatch):
    """Kernels of CUDA load several numbers at once, so heads and tokens must start at multiples of that."""
    calls = record_attention(monkeypatch)
    build(block_configs=[block(heads=1, qk=qk, v=v)])(images)
    assert calls and all(stride % 8 == 0 for call in calls for states in call for stride in states.stride()[:-1])


def test_outputs_have_the_shapes_of_every_block(images):
    output = build()(images, output_attentions=True, output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, 17, 24)] * 4
    assert [tuple(probabilities.shape) for probabilities in output.attentions] == [
        (2, 2, 17, 17),
        (2, 3, 17, 17),
        (2, 1, 17, 17),
    ]
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, 2, 17))


def test_nothing_is_returned_that_was_not_asked_for(images):
    output = build()(images)
    assert output.hidden_states is None
    assert output.attentions is None
    assert output.loss is None


def test_tuple_output(images):
    model = build()
    assert torch.equal(model(images, return_dict=False)[0], model(images).logits)


def test_loss_is_cross_entropy_and_trains_every_weight(images):
    model, labels = build().train(), torch.tensor([1, 3])
    output = model(images, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradient_checkpointing_gives_the_same_gradients(images):
    plain = build().train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    assert all(layer.gradient_checkpointing for layer in checkpointed.base_model.layers)
    for model in (plain, checkpointed):
        model(images, labels=torch.tensor([1, 3])).loss.backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_half_precision_is_near_float32(images, dtype, implementation):
    model = build(implementation=implementation)
    expected = model(images).logits
    logits = model.to(dtype)(images).logits  # float32 images are cast
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, atol=0.1, rtol=0.1)


def test_other_image_sizes_need_interpolation(images):
    model = build()
    larger = torch.randn(2, 3, 24, 32)
    with pytest.raises(ValueError, match=r"24x32 pixels; the model reads 16x16.*interpolate_pos_encoding"):
        model(larger)
    assert model(larger, interpolate_pos_encoding=True).logits.shape == (2, 4)
    assert torch.equal(model(images, interpolate_pos_encoding=True).logits, model(images).logits)


def test_wrong_number_of_channels(images):
    with pytest.raises(ValueError, match="4 channels; the model reads 3"):
        build()(torch.randn(2, 4, 16, 16))


def test_two_heads_are_averaged(images):
    model = build(use_distillation_token=True, use_distillation_head=True)
    output = model(images)
    torch.testing.assert_close(output.logits, (output.cls_logits + output.distillation_logits) / 2)
    assert not torch.equal(output.cls_logits, output.distillation_logits)


def test_pooler_is_there_when_the_config_has_one(images):
    assert build(SNPViTModel, use_pooler=True, pooler_output_size=7)(images).pooler_output.shape == (2, 7)
    assert build(SNPViTModel)(images).pooler_output is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 5}, "num_hidden_layers is 5.*block_configs has 3"),
        (
            {"block_configs": [block(), block(qk=0)]},
            r"block_configs\[1\].qk_head_dim must be a positive integer, got 0",
        ),
        ({"block_configs": [block(v=2.5)]}, r"block_configs\[0\].v_head_dim must be a positive integer, got 2.5"),
        ({"block_configs": [block(heads=True)]}, r"block_configs\[0\].num_attention_heads must be a positive integer"),
        ({"block_configs": [block(scale=-1.0)]}, r"block_configs\[0\].attention_scale must be a positive number"),
        ({"block_configs": [{"qk_head_dim": 3}]}, r"block_configs\[0\] must have exactly the fields.*missing.*v_head"),
        ({"block_configs": [{**block(), "size": 3}]}, r"block_configs\[0\].*unknown: size"),
        ({"block_configs": []}, "num_hidden_layers must be a positive integer, got 0"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
        ({"norm_type": "rms"}, "norm_type must be 'layer', got 'rms'"),
        ({"use_distillation_head": True}, "use_distillation_head needs use_distillation_token"),
    ],
)
def test_contradictions_are_refused_naming_block_and_field(change, message):
    with pytest.raises(ValueError, match=message):
        SNPViTConfig(**{"hidden_size": 24, "block_configs": UNEQUAL_BLOCKS, **change})


def test_dense_config_from_the_sizes_of_a_vit():
    config = SNPViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50)
    assert config.block_configs == [block(heads=3, qk=8, v=8, mlp=50, scale=8**-0.5)] * 2
    with pytest.raises(ValueError, match="hidden_size 24 is no multiple of num_attention_heads 5"):
        SNPViTConfig(hidden_size=24, num_attention_heads=5)


@pytest.mark.parametrize(
    "name", ["intermediate_size", "num_attention_heads", "hidden_size", "qk_head_dim", "qkv_bias"]
)
def test_scalars_that_the_blocks_overrule_are_refused_at_loading(tmp_path, name):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{name} cannot be changed while loading"):
        SNPViTForImageClassification.from_pretrained(tmp_path, **{name: 7})
    with pytest.raises(ValueError, match=f"{name} cannot be changed while loading"):
        SNPViTConfig.from_pretrained(tmp_path, **{name: 7})


def test_config_survives_saving(tmp_path):
    config = build().config
    config.save_pretrained(tmp_path)
    loaded = SNPViTConfig.from_pretrained(tmp_path)
    assert loaded.block_configs == config.block_configs
    assert loaded.auto_map == {
        "AutoConfig": "configuration_snp_vit.SNPViTConfig",
        "AutoModel": "modeling_snp_vit.SNPViTModel",
        "AutoModelForImageClassification": "modeling_snp_vit.SNPViTForImageClassification",
        "AutoBackbone": "modeling_snp_vit.SNPViTBackbone",
    }


def test_deep_copies_share_no_blocks():
    config = build().config
    twin = copy.deepcopy(config)
    twin.block_configs[0]["qk_head_dim"] = 99
    assert config.block_configs[0]["qk_head_dim"] == 5


def test_compiles_without_graph_breaks(images):
    model = build()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images).logits, model(images).logits)

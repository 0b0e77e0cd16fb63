"""The options of the ViT architecture give what the families of transformers compute."""

import copy

import pytest
import torch
import transformers

from optimum_snp.models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from tests.helpers import checkpoint_activations

from .comparison import VISION_SIZES, assert_same, images_of, randomize
from .dinov2_reference import FAMILIES, HEADS, build_dinov2, reference_model


# Pixels, for patches of 8: those of the config, others, and such that are no multiple of a patch.
IMAGE_SIZES = [(24, 24), (32, 24), (40, 64), (16, 16), (27, 45), (24, 25), (30, 30)]
STAGES = ["stem", "stage2", "stage4"]

every_family = pytest.mark.parametrize("family", FAMILIES)
every_head = pytest.mark.parametrize("head", HEADS)
every_mlp = pytest.mark.parametrize("use_swiglu_ffn", [False, True], ids=["mlp", "swiglu"])


def total(outputs):
    """A scalar that every entry of the first output enters."""
    first = outputs[0]
    return sum((states * states).mean() for states in (first if isinstance(first, tuple) else (first,)))


@every_family
@every_head
@every_mlp
def test_outputs_are_those_of_dinov2(family, head, use_swiglu_ffn):
    options = {"out_features": STAGES} if head == "Backbone" else {}
    source = build_dinov2(family, head, use_swiglu_ffn=use_swiglu_ffn, **options)
    model = reference_model(source)
    with torch.inference_mode():
        for size in IMAGE_SIZES:
            images = images_of(*size)
            expected = source(images, output_hidden_states=True)
            assert_same(model(images, output_hidden_states=True), expected)
            assert_same(model(images), source(images))


@every_family
@every_head
def test_attentions_are_those_of_dinov2(family, head):
    source = build_dinov2(family, head, attn_implementation="eager")
    model, images = reference_model(source), images_of(32, 24)
    assert model.config._attn_implementation == "eager"
    with torch.inference_mode():
        expected = source(images, output_attentions=True)
        assert len(expected.attentions) == 4
        assert_same(model(images, output_attentions=True), expected)
        model.set_attn_implementation("sdpa")  # which gives no probabilities
        assert_same(model(images, output_attentions=True), expected)


@every_family
def test_half_precision_interpolates_in_float32(family):
    source = build_dinov2(family, "Model").bfloat16()
    embeddings = reference_model(source).bfloat16().embeddings
    images = images_of(56, 40).bfloat16()
    with torch.inference_mode():
        assert torch.equal(embeddings(images), source.embeddings(images))


@every_family
@every_head
@every_mlp
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_half_precision_is_near_float32(family, head, use_swiglu_ffn, implementation):
    model = reference_model(build_dinov2(family, head, use_swiglu_ffn=use_swiglu_ffn))
    model.set_attn_implementation(implementation)
    with torch.inference_mode():
        expected = model(images_of(32, 24))[0]
        found = model.bfloat16()(images_of(32, 24))[0]
    found, expected = (states[-1] if isinstance(states, tuple) else states for states in (found, expected))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


@every_family
@every_head
@every_mlp
def test_gradient_checkpointing_gives_the_same_gradients(family, head, use_swiglu_ffn):
    plain = reference_model(build_dinov2(family, head, use_swiglu_ffn=use_swiglu_ffn)).train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    assert all(layer.gradient_checkpointing for layer in checkpointed.base_model.layers)
    for model in (plain, checkpointed):
        total(model(images_of(32, 24))).backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad)


@every_head
def test_graphs_are_captured_whole(head):
    """By compilation, and by export for any number of images."""
    model = reference_model(build_dinov2("Dinov2WithRegisters", head, use_swiglu_ffn=True))
    images = images_of(32, 24, batch_size=3)
    torch.compiler.reset()  # the graphs of other tests count for a limit
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (images_of(32, 24),), dynamic_shapes={"pixel_values": {0: batch}})
    with torch.inference_mode():
        expected = model(images)
        assert_same(compiled(images), expected)
        assert_same(exported.module()(images), expected)


@every_family
@every_head
def test_saving_and_loading_gives_the_same_bits(family, head, tmp_path):
    model = reference_model(build_dinov2(family, head, use_swiglu_ffn=True))
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.config.to_dict() == {
        **model.config.to_dict(),
        "transformers_version": loaded.config.transformers_version,
        "architectures": [type(model).__name__],
        "dtype": "float32",
        "_name_or_path": str(tmp_path),
    }
    with torch.inference_mode():
        images = images_of(32, 24)
        for name, value in model(images, output_hidden_states=True).items():
            torch.testing.assert_close(loaded.eval()(images, output_hidden_states=True)[name], value, atol=0, rtol=0)


def other_name(name):
    """The names of CLIP, SigLIP and BEiT here."""
    for theirs, ours in (
        ("patch_embedding.", "patch_embeddings.projection."),
        ("position_embedding.weight", "position_embeddings"),
        ("class_embedding", "cls_token"),
        ("pre_layrnorm", "pre_layernorm"),
        ("post_layernorm", "layernorm"),
        ("encoder.layers", "layers"),
        ("layer_norm1", "layernorm_before"),
        ("layer_norm2", "layernorm_after"),
        ("self_attn", "attention"),
        ("out_proj", "o_proj"),
    ):
        name = name.replace(theirs, ours)
    return name


def load_other(model, source, prefix=""):
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    weights = {prefix + other_name(name): weight for name, weight in source.state_dict().items()}
    model.load_state_dict({name: weight.reshape(shapes[name]) for name, weight in weights.items()})
    return model.eval()


def test_norm_before_the_blocks_and_patches_without_bias_as_in_clip():
    config = transformers.CLIPVisionConfig(**VISION_SIZES, hidden_act="quick_gelu")
    source = randomize(transformers.CLIPVisionModel(config))
    ours = SNPViTConfig(
        **config.to_dict(),
        use_pre_layernorm=True,
        patch_embedding_bias=False,
        use_pooler=True,
        pooler_type="cls",
    )
    model = load_other(SNPViTModel(ours), source)
    with torch.inference_mode():
        found = model(images_of(24, 24), output_hidden_states=True)
        expected = source(images_of(24, 24), output_hidden_states=True)
        assert_same(
            {"pooled": found.pooler_output, "states": found.hidden_states},
            {"pooled": expected.pooler_output, "states": expected.hidden_states},
        )
        larger = images_of(40, 24)
        expected = source(larger, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(model(larger, interpolate_pos_encoding=True).pooler_output, expected)


def test_no_class_token_and_the_mean_of_patches_as_in_siglip():
    vision = transformers.SiglipVisionConfig(**VISION_SIZES, vision_use_head=False)
    config = transformers.SiglipConfig(vision_config=vision.to_dict(), num_labels=4)
    source = randomize(transformers.SiglipForImageClassification(config))
    ours = SNPViTConfig(**vision.to_dict(), use_cls_token=False, num_labels=4)
    assert ours.classifier_pooling == "mean"
    model = SNPViTForImageClassification(ours)
    load_other(model.snp_vit, source.vision_model)
    model.classifier.load_state_dict(source.classifier.state_dict())
    with torch.inference_mode():
        assert_same(model.eval()(images_of(24, 24)), source(images_of(24, 24)))
        expected = source.vision_model(images_of(24, 24)).last_hidden_state
        torch.testing.assert_close(model.snp_vit(images_of(24, 24)).last_hidden_state, expected)


def test_keys_without_bias_as_in_beit():
    config = transformers.BeitConfig(
        **VISION_SIZES,
        use_mask_token=False,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=False,
        use_mean_pooling=False,
        layer_scale_init_value=0.0,
    )
    source = randomize(transformers.BeitModel(config))
    fields = {**config.to_dict(), "drop_path_rate": 0.0}
    model = load_other(SNPViTModel(SNPViTConfig(**fields, key_bias=False, use_pooler=True, pooler_type="cls")), source)
    assert model.layers[0].attention.k_proj.bias is None
    with torch.inference_mode():
        assert_same(model(images_of(24, 24)), source(images_of(24, 24)))

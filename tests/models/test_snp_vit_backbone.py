"""The ViT architecture as a backbone, beside those of transformers."""

import copy

import pytest
import torch
import transformers

from optimum_snp.models import SNPViTBackbone, SNPViTConfig, SNPViTModel

from .comparison import assert_same, images_of, randomize
from .dinov2_reference import FAMILIES, build_dinov2, reference_config, reference_model, reference_weights


# Pixels, for patches of 8: those of the config, others, and such that are no multiple of a patch.
IMAGE_SIZES = [(24, 24), (32, 24), (40, 64), (27, 45)]
STAGES = ["stem", "stage2", "stage4"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"apply_layernorm": False},
        {"reshape_hidden_states": False},
        {"apply_layernorm": False, "reshape_hidden_states": False, "out_indices": [0, 1, 3]},
    ],
)
def test_feature_maps_are_those_of_dinov2(family, options):
    source = build_dinov2(family, "Backbone", **options)
    model = reference_model(source)
    assert (model.snp_vit.layernorm is None) == (not source.config.apply_layernorm)
    assert (model.out_features, model.channels) == (source.out_features, source.channels)
    with torch.inference_mode():
        for size in IMAGE_SIZES:
            assert_same(model(images_of(*size)), source(images_of(*size)))


def test_checkpoints_load_into_each_other(tmp_path):
    """A classifier's network as a model and as a backbone with other stages, as in transformers."""
    source = build_dinov2("Dinov2WithRegisters", "ForImageClassification")
    reference_model(source).save_pretrained(tmp_path)
    source.save_pretrained(tmp_path / "source")
    expected = transformers.Dinov2WithRegistersBackbone.from_pretrained(tmp_path / "source", out_features=STAGES)
    backbone = SNPViTBackbone.from_pretrained(tmp_path, out_features=STAGES).eval()
    images = images_of(32, 24)
    with torch.inference_mode():
        assert_same(backbone(images), expected.eval()(images))
        states = SNPViTModel.from_pretrained(tmp_path).eval()(images).last_hidden_state
        assert_same({"states": states}, {"states": source.base_model(images).last_hidden_state})
    assert SNPViTBackbone.from_pretrained(tmp_path, out_indices=[-1]).out_features == ["stage4"]


@pytest.mark.parametrize(("dropped", "stages"), [([1], STAGES), ([0, 3], STAGES), ([3], ["stage3", "stage4"])])
def test_dropped_blocks_rename_no_stage(dropped, stages, tmp_path):
    """A block whose layer scales are 0 adds nothing; without it, all maps are what they were."""
    source = build_dinov2("Dinov2", "Backbone", out_features=stages)
    kept = [index for index in range(4) if index not in dropped]
    with torch.no_grad():
        for index in dropped:
            for scale in (source.encoder.layer[index].layer_scale1, source.encoder.layer[index].layer_scale2):
                scale.lambda1.zero_()
    fields = reference_config(source).to_dict()
    fields["block_configs"] = [fields["block_configs"][index] for index in kept]
    fields |= {"num_hidden_layers": len(kept), "stage_depths": [int(index in kept) for index in range(4)]}
    model = SNPViTBackbone(SNPViTConfig.from_dict(fields)).eval()
    places = {f"snp_vit.layers.{index}.": f"snp_vit.layers.{place}." for place, index in enumerate(kept)}
    weights = {}
    for name, weight in reference_weights(source).items():
        layer = ".".join(name.split(".")[:3]) + "."
        if not name.startswith("snp_vit.layers.") or layer in places:
            weights[name.replace(layer, places.get(layer, layer))] = weight
    model.load_state_dict(weights)
    model.save_pretrained(tmp_path)
    loaded = SNPViTBackbone.from_pretrained(tmp_path).eval()
    assert loaded.stage_names == source.stage_names
    assert loaded.channels == source.channels
    with torch.inference_mode():
        expected = source(images_of(32, 24), output_hidden_states=True)
        for backbone in (model, loaded):
            assert_same(backbone(images_of(32, 24), output_hidden_states=True), expected)


def depth_anything(backbone_config):
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone_config,
        patch_size=8,
        reassemble_hidden_size=24,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def dpt(backbone_config):
    config = transformers.DPTConfig(
        backbone_config=backbone_config,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
        is_hybrid=False,
        use_batch_norm_in_fusion_residual=False,
    )
    return transformers.DPTForDepthEstimation(config)


@pytest.mark.parametrize("build", [depth_anything, dpt])
def test_backbone_stands_in_depth_models(build, tmp_path):
    source = build_dinov2("Dinov2", "Backbone", out_indices=[1, 2, 3, 4], reshape_hidden_states=False)
    with_source = randomize(build(copy.deepcopy(source.config)))
    with_ours = build(reference_config(with_source.backbone)).eval()
    assert type(with_ours.backbone) is SNPViTBackbone
    weights = {name: weight for name, weight in with_source.state_dict().items() if not name.startswith("backbone.")}
    weights |= {f"backbone.{name}": weight for name, weight in reference_weights(with_source.backbone).items()}
    with_ours.load_state_dict(weights)
    images = images_of(32, 48)
    with torch.inference_mode():
        expected = with_source(images).predicted_depth
        torch.testing.assert_close(with_ours(images).predicted_depth, expected, atol=1e-4, rtol=1e-4)
    with_ours(images).predicted_depth.mean().backward()
    assert all(parameter.grad is not None for parameter in with_ours.backbone.parameters())
    with_ours.save_pretrained(tmp_path)
    loaded = type(with_ours).from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(images).predicted_depth, with_ours(images).predicted_depth)

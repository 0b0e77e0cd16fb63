"""timm's ViTs and Swins: the same logits, the same pixels, the whole road; and what is refused."""

import importlib.util
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert, families, native_model
from optimum_snp.families.timm.image_processor import build_image_processor


if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed; `make test` runs this in an environment of its own", allow_module_level=True)
import timm
from timm.data import create_transform, resolve_data_config


FAMILY = next(family for family in families() if family.title == "timm")

CLASSIFIER, BARE = "TimmWrapperForImageClassification", "TimmWrapperModel"
# Of published shape, but for depth where it only repeats, and size where weights would be many.
PUBLISHED = {
    "vit_tiny": {"architecture": "vit_tiny_patch16_224"},
    "deit_small": {"architecture": "deit_small_patch16_224"},
    "deit_distilled": {"architecture": "deit_tiny_distilled_patch16_224", "depth": 2},
    "deit3": {"architecture": "deit3_small_patch16_224"},
    "reg4_dinov2": {"architecture": "vit_small_patch14_reg4_dinov2", "img_size": 112},
    "dinov2": {"architecture": "vit_small_patch14_dinov2", "img_size": 112, "dynamic_img_size": True, "depth": 3},
    "giant": {"architecture": "vit_giant_patch14_dinov2", "img_size": 28, "depth": 2, "embed_dim": 96, "num_heads": 4},
    "gap": {"architecture": "vit_medium_patch16_gap_240", "depth": 2},
    "reg4_gap": {"architecture": "vit_little_patch16_reg4_gap_256", "depth": 2},
    "swin_tiny": {"architecture": "swin_tiny_patch4_window7_224"},
}
# Options that no published model above has.
SMALL = {
    "plain": {},
    "registers with positions": {"reg_tokens": 3},
    "no positions": {"pos_embed": "none"},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "fc_norm of the class token": {"fc_norm": True},
    "fc_norm of the mean": {"fc_norm": True, "global_pool": "avg"},
    "mean without class token": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "not square": {"img_size": (32, 48)},
    "tanh": {"act_layer": "gelu_tanh"},
    "grey": {"in_chans": 1},
}


def build(class_name=CLASSIFIER, **options):
    """A random wrapper; published shapes have weights of usual size, since deep networks would drown in noise."""
    if "architecture" not in options:
        return FAMILY.example(class_name, **options)
    architecture = options.pop("architecture")
    config = transformers.TimmWrapperConfig.from_dict(
        {"architecture": architecture, "num_classes": 7, "label_names": [f"kind {index}" for index in range(7)]}
    )
    config.model_args = options
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter.dim() < 2 or any(part in name for part in ("token", "pos_embed", "bias_table")):
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model


def images_for(source, number=2):
    embedding = source.timm_model.patch_embed
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, embedding.proj.in_channels, *embedding.img_size, generator=generator)


@pytest.mark.parametrize("options", [*PUBLISHED.values(), *SMALL.values()], ids=[*PUBLISHED, *SMALL])
@torch.no_grad()
def test_logits_are_those_of_timm(options):
    source = build(**options)
    images = images_for(source)
    model, expected = convert(source), source.timm_model(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(images).logits, expected, atol=1e-5, rtol=1e-5)
    assert model.config.id2label == source.config.id2label
    assert model.config.source_model_type == "timm_wrapper"


@pytest.mark.parametrize("name", ["deit_small", "deit3", "reg4_dinov2", "swin_tiny"])
@torch.no_grad()
def test_features_are_those_of_timm(name):
    source = build(BARE, **PUBLISHED[name])
    images = images_for(source)
    outputs, expected = convert(source)(images), source(images)
    tokens = expected.last_hidden_state
    tokens = tokens.flatten(1, 2) if tokens.dim() == 4 else tokens
    torch.testing.assert_close(outputs.last_hidden_state, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_other_sizes_of_images():
    source = build(dynamic_img_size=True, reg_tokens=1)
    images = torch.randn(2, 3, 48, 64)
    torch.testing.assert_close(convert(source)(images).logits, source(images).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qk_norm": True}, r"blocks\.0\.attn\.q_norm .* qk_norm divides every query and key by its length"),
        ({"global_pool": "map"}, "global_pool='map' .* attention pooling is one more attention layer"),
        ({"global_pool": "max"}, "global_pool='max' .* a maximum over tokens is not linear"),
        ({"pre_norm": True}, "norm_pre of the timm model cannot be pruned"),
        ({"final_norm": False}, "no final norm"),
        ({"scale_mlp_norm": True}, r"blocks\.0\.mlp\.norm"),
        ({"scale_attn_norm": True}, r"blocks\.0\.attn\.norm"),
        ({"dynamic_img_size": True, "dynamic_img_pad": True}, "dynamic_img_pad"),
        ({"norm_layer": "rmsnorm"}, "norm1 of the timm model is a RmsNorm; only LayerNorm can be pruned"),
        ({"architecture": "resnet18"}, "is a ResNet; only VisionTransformer or VisionTransformerDistilled"),
        ({"architecture": "swinv2_cr_tiny_ns_224"}, "is a SwinTransformerV2Cr; only"),
        ({"architecture": "vit_base_patch16_rpn_224", "depth": 1}, r"blocks\.0 of the timm model is a ResPostBlock"),
        ({"architecture": "swin_tiny_patch4_window7_224", "always_partition": True}, "always_partition"),
        ({"architecture": "swin_tiny_patch4_window7_224", "img_size": 112}, "differ in window size"),
    ],
    ids=str,
)
def test_what_cannot_be_expressed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        convert(build(**options))


@pytest.mark.parametrize(
    ("class_name", "options", "message"),
    [
        (BARE, {"class_token": False, "global_pool": "avg", "fc_norm": False}, "pools by 'avg'"),
        (BARE, {"architecture": "deit_tiny_distilled_patch16_224", "depth": 1}, "pools by 'both tokens'"),
        (BARE, {"fc_norm": True}, "fc_norm of the timm model norms what is pooled"),
    ],
)
def test_bare_models_that_pool_in_another_way(class_name, options, message):
    with pytest.raises(ValueError, match=message):
        convert(build(class_name, **options))


SETTINGS = {
    "deit": {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic"},
    "deit3": {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bicubic"},
    "augreg": {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bilinear", "mean": (0.5,) * 3},
    "squash": {"input_size": (3, 96, 48), "crop_pct": 0.96, "crop_mode": "squash", "interpolation": "lanczos"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("size", [(50, 50), (300, 300), (100, 140), (333, 500), (640, 427)])
def test_pixels_are_those_of_timm(settings, size, tmp_path):
    """Where an odd number of pixels is cut off, the cut may lie one pixel beside timm's."""
    data_config = resolve_data_config(settings)
    source = transformers.TimmWrapperImageProcessor(settings)
    processor = FAMILY.convert_image_processor(source)
    processor.save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"] == "BitImageProcessor"
    )
    noise = np.random.default_rng(0).integers(0, 255, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    expected = create_transform(**data_config, is_training=False)
    wanted = [expected(image)]
    if settings.get("crop_mode") != "squash":  # one pixel to the left, or up
        short = int(data_config["input_size"][1] / data_config["crop_pct"])
        long = int(short * max(size) / min(size))
        resampling = getattr(Image.Resampling, settings["interpolation"].upper())
        resized = image.resize((long, short) if size[0] > size[1] else (short, long), resampling)
        crop = data_config["input_size"][1]
        left, top = (resized.width - crop) // 2, (resized.height - crop) // 2
        cut = resized.crop((left, top, left + crop, top + crop))
        wanted.append(expected.transforms[-1](expected.transforms[-2](cut)))
    found = processor(image, return_tensors="pt")["pixel_values"][0]
    assert min((found - one).abs().max() for one in wanted) < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode of timm's eval transform is 'border'"),
        ({"input_size": (3, 224, 192)}, "input_size of timm's eval transform"),
        ({"crop_pct": 1.2}, "crop_pct of timm's eval transform is 1.2"),
    ],
)
def test_transforms_that_cannot_be_expressed(settings, message):
    source = transformers.TimmWrapperImageProcessor({"input_size": (3, 224, 224), **settings})
    with pytest.raises(ValueError, match=message):
        SNPPruner(build(), source)


def test_an_interpolation_that_is_drawn_by_chance():
    settings = resolve_data_config({"input_size": (3, 224, 224)}) | {"interpolation": "random"}
    with pytest.raises(ValueError, match=r"interpolation of timm's eval transform is 'random', but .* 'bicubic'"):
        build_image_processor(settings)


def upload(hub_folder, name, architecture, **model_args):
    """A repository as timm makes them."""
    folder = hub_folder / name
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model(architecture, **model_args).eval()
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    pretrained_cfg = {"tag": "fb_in1k", "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9,
                      "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "num_classes": 1000,
                      "crop_mode": "center"}  # fmt: skip
    config = {"architecture": architecture, "num_classes": 1000, "num_features": 1, "pretrained_cfg": pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config | ({"model_args": model_args} if model_args else {})))
    return model


def test_the_whole_road_from_the_hub(tmp_path, monkeypatch):
    from tests.hub_server import HubServer

    name = "timm/deit_small_patch16_224.fb_in1k"
    model = upload(tmp_path / "hub", name, "deit_small_patch16_224", depth=2)
    upload(tmp_path / "hub", "timm/resnet18.a1_in1k", "resnet18")
    with HubServer(tmp_path / "hub") as hub:
        hub.patch_client(monkeypatch)
        options = {"cache_dir": tmp_path / "cache"}
        pruner = SNPPruner.from_pretrained(name, **options)
        images = torch.randn(4, 3, 224, 224)
        with torch.inference_mode():
            torch.testing.assert_close(pruner.model(images).logits, model(images), atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match="The timm architecture resnet18 cannot be pruned"):
            SNPPruner.from_pretrained("timm/resnet18.a1_in1k", **options)
        assert not [path for _, path in hub.requests if "resnet18" in path and "safetensors" in path]
    assert pruner.model.config.id2label[0].startswith("tench")
    assert pruner.image_processor.size == {"shortest_edge": 248}
    pruner.calibrate(images, len(images))
    pruner.prune(SNPConfig(target_flops=0.6, layout="native"))
    pruner.save_pretrained(tmp_path / "small")
    plain = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "small").eval()
    assert type(plain) is transformers.ViTForImageClassification
    with torch.inference_mode():
        torch.testing.assert_close(plain(images).logits, pruner.model(images).logits, atol=1e-5, rtol=1e-5)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "small")
    assert processor.crop_size == {"height": 224, "width": 224}
    assert "DeiT" in (tmp_path / "small" / "README.md").read_text()


def test_plain_checkpoints_of_timm_models():
    distilled = build(architecture="deit_tiny_distilled_patch16_224", depth=1)
    native = native_model(convert(distilled))
    assert type(native) is transformers.DeiTForImageClassificationWithTeacher
    images = images_for(distilled)
    torch.testing.assert_close(native(images).logits, distilled(images).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="num_register_tokens is 2, but as ViT transformers knows only 0"):
        native_model(convert(build(reg_tokens=2)))
    with pytest.raises(ValueError, match="Swin cannot be saved as a plain checkpoint"):
        native_model(convert(build(**FAMILY.variants(BARE)["swin"])))

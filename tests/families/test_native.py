"""Pruned models as classes of transformers: the same function, loaded without this package and without remote code."""

import functools
import sys

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers.models.beit import modeling_beit
from transformers.models.dinov2 import modeling_dinov2
from transformers.models.vit import modeling_vit

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert, families, family_of_source, native_config, native_model
from optimum_snp.models import build_like
from optimum_snp.structure import resized_config
from tests.families.cases import IMAGES
from tests.helpers import run_python


NATIVE = {
    (name, variant): (family, options)
    for family in families()
    if family.native_version and family.title != "timm"
    for name in family.source_classes
    for variant, options in {"": {}, **family.variants(name)}.items()
    if variant != "raw"
}


# Networks that another class has as well: their tests take long for what they tell.
ALIKE = ("ViTMSN", "IJepa")
PARAMS = [
    pytest.param(*key, marks=[pytest.mark.slow] if key[0].startswith(ALIKE) else [], id="-".join(filter(None, key)))
    for key in NATIVE
]


@functools.cache
def pruned(class_name, variant=""):
    """A pruner whose model has one size for all blocks: fewer heads and, but in backbones, fewer blocks.

    It is not to be changed.
    """
    family, options = NATIVE[class_name, variant]
    pruner = SNPPruner(family.example(class_name, **options))
    pruner.calibrate(IMAGES, len(IMAGES))
    dropped = 0 if class_name.endswith("Backbone") else 1
    pruner.prune(SNPConfig(layout="native", target_flops=0.6, head_sparsity=0.25, dropped_blocks=dropped, round_to=2))
    return pruner


def outputs_of(model, run=None):
    with torch.inference_mode():
        outputs = model(IMAGES) if run is None else run(model, IMAGES)
    maps = {f"map{index}": one for index, one in enumerate(outputs.get("feature_maps", ()))}
    return maps | {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


LOAD = """
import sys

sys.modules["optimum_snp"] = None
import torch, transformers
from safetensors.torch import load_file, save_file

folder, results = sys.argv[1], {}
images = load_file(folder + "/images.safetensors")["images"]
for place, auto_class in (argument.split(":") for argument in sys.argv[2:]):
    model, report = getattr(transformers, auto_class).from_pretrained(f"{folder}/{place}", output_loading_info=True)
    assert type(model).__module__.startswith("transformers.models."), type(model)
    assert not any(report.values()), report
    options = {}
    if type(model).__name__ == "ViTMAEModel":  # it shuffles the patches
        options["noise"] = torch.arange(16).expand(len(images), -1)
    with torch.inference_mode():
        outputs = model.eval()(images, **options)
    for name, value in outputs.items():
        if isinstance(value, torch.Tensor) and name not in ("ids_restore", "mask"):
            results[f"{place}/{name}"] = value.contiguous()
        elif name == "feature_maps":
            results |= {f"{place}/map{index}": one.contiguous() for index, one in enumerate(value)}
save_file(results, folder + "/results.safetensors")
"""


@pytest.mark.parametrize("alike", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loads_without_this_package_and_without_remote_code(tmp_path, alike):
    """Of every class in every variant; a second classifier and backbones in folders have no Auto class."""
    save_file({"images": IMAGES}, tmp_path / "images.safetensors")
    expected, arguments = {}, []
    for class_name, variant in NATIVE:
        if class_name.startswith(ALIKE) != alike:
            continue
        place = f"{class_name}-{variant}".replace(" ", "-")
        model = pruned(class_name, variant).model
        native_model(model).save_pretrained(tmp_path / place)
        expected |= {f"{place}/{name}": value for name, value in outputs_of(model).items()}
        if class_name.endswith(("WithTeacher", "Backbone")):
            auto_class = class_name
        else:
            auto_class = "AutoModelForImageClassification" if class_name.endswith("Classification") else "AutoModel"
        arguments.append(f"{place}:{auto_class}")
    run_python(LOAD, tmp_path, *arguments, python=sys.executable)
    torch.testing.assert_close(load_file(tmp_path / "results.safetensors"), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("class_name", "variant"), PARAMS)
def test_comes_back(class_name, variant):
    model = pruned(class_name, variant).model
    native = native_model(model)
    assert type(native) is getattr(transformers, class_name)
    assert native.config.head_dim == model.config.block_configs[0]["qk_head_dim"]
    again = convert(native)
    torch.testing.assert_close(outputs_of(again), outputs_of(model), atol=1e-5, rtol=1e-5)
    run = NATIVE[class_name, variant][0].source_outputs
    torch.testing.assert_close(outputs_of(native, run), outputs_of(model), atol=1e-5, rtol=1e-5)
    for name in ("id2label", "image_size", "hidden_act", "layer_norm_eps"):
        assert getattr(native.config, name) == getattr(model.config, name)


@given(
    heads=st.integers(1, 5),
    head_dim=st.integers(1, 17),
    intermediate_size=st.integers(1, 90),
    width=st.integers(1, 60),
    depth=st.integers(1, 3),
    scale=st.floats(0.01, 2),
    biases=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
@settings(max_examples=25, deadline=None)
def test_any_sizes(heads, head_dim, intermediate_size, width, depth, scale, biases):
    """The scale goes into the queries, and biases that transformers always has are zeros."""
    dense = convert(NATIVE["ViTForImageClassification", ""][0].example("ViTForImageClassification"))
    block = {
        "num_attention_heads": heads,
        "qk_head_dim": head_dim,
        "v_head_dim": head_dim,
        "intermediate_size": intermediate_size,
    }
    blocks = [{**block, "attention_scale": scale * (index + 1)} for index in range(depth)]
    qkv_bias, key_bias, patch_bias = biases
    fields = {"qkv_bias": qkv_bias, "key_bias": qkv_bias and key_bias, "patch_embedding_bias": patch_bias}
    sizes = {"block_configs": blocks, "num_hidden_layers": depth, "hidden_size": width, "pooler_output_size": width}
    config = type(dense.config).from_dict({**dense.config.to_dict(), **fields, **sizes})
    torch.manual_seed(0)
    model = type(dense)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    native = native_model(model)
    torch.testing.assert_close(native(IMAGES).logits, model(IMAGES).logits, atol=1e-4, rtol=1e-4)


def test_the_dense_model_comes_back_as_it_was():
    source = NATIVE["ViTModel", ""][0].example("ViTModel")
    native = native_model(convert(source))
    torch.testing.assert_close(dict(native.state_dict()), dict(source.state_dict()))


def test_a_missing_pooler_stays_missing():
    source = NATIVE["ViTModel", ""][0].example("ViTModel")
    source.pooler = None
    assert native_model(convert(source)).pooler is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype(dtype):
    model = convert(NATIVE["ViTForImageClassification", ""][0].example("ViTForImageClassification")).to(dtype)
    assert {weight.dtype for weight in native_model(model).parameters()} == {dtype}


@pytest.mark.parametrize(
    ("block", "field", "message"),
    [
        (2, "qk_head_dim", "v_head_dim of block 2 is 12, but qk_head_dim of block 2 is 5"),
        (1, "v_head_dim", "v_head_dim of block 1 is 5, but qk_head_dim of block 1 is 12"),
        (1, "num_attention_heads", "num_attention_heads of block 1 is 5, but num_attention_heads of block 0 is 4"),
        (2, "intermediate_size", "intermediate_size of block 2 is 5, but intermediate_size of block 0 is 96"),
    ],
)
def test_what_stands_in_the_way_is_named(block, field, message, tmp_path):
    pruner = SNPPruner(NATIVE["ViTForImageClassification", ""][0].example("ViTForImageClassification"))
    pruner.model = _with_block(pruner.model, block, {field: 5})
    with pytest.raises(ValueError, match=message):
        pruner.save_pretrained(tmp_path / "model", layout="native")
    assert not (tmp_path / "model").exists()


def _with_block(model, index, sizes):
    blocks = [
        {**block, **(sizes if index == number else {})} for number, block in enumerate(model.config.block_configs)
    ]
    config = resized_config(model.config, blocks, [model.config.hidden_size], refits=False)
    other = type(model)(config)
    return build_like(model, type(model), config, other.state_dict())


def test_sizes_that_an_integer_mlp_ratio_cannot_give():
    model = convert(NATIVE["Dinov2Model", ""][0].example("Dinov2Model"))
    block = {**model.config.block_configs[0], "intermediate_size": 90}
    config = resized_config(model.config, [block] * 3, [48], refits=False)
    with pytest.raises(
        ValueError, match=r"intermediate_size is 90, but with hidden_size 48 DINOv2 .* only 48, 96, 144"
    ):
        native_config(config, type(model))


@pytest.mark.parametrize(
    ("class_name", "title", "reason"),
    [
        ("SwinModel", "Swin", "derive the size of a head from the width"),
        ("DINOv3ViTModel", "DINOv3", "derive the size of a head from the width"),
        ("Data2VecVisionModel", "data2vec-vision", "derive the size of a head from the width"),
        ("CLIPVisionModel", "CLIP", "derive the size of a head from the width"),
        ("SiglipVisionModel", "SigLIP", "derive the size of a head from the width"),
        ("ASTModel", "AST", "no place for what a narrower stream needs"),
    ],
)
def test_families_without_a_plain_form(class_name, title, reason):
    model = convert(family_of_source(class_name).example(class_name))
    message = rf"{title} cannot be saved as a plain checkpoint .* {reason}.*\. Models of ViT, DeiT, DINOv2, BEiT"
    with pytest.raises(ValueError, match=message):
        native_config(model.config, type(model))


@pytest.mark.parametrize(
    "class_name", ["DINOv3ViTModel", "Data2VecVisionModel", "CLIPVisionModel", "SiglipVisionModel"]
)
def test_their_classes_do_not_read_the_size_of_a_head(class_name):
    """Should one of them begin to, it can have a plain form."""
    family = family_of_source(class_name)
    config = family.example(class_name).config
    config.head_dim = 2 * config.hidden_size // config.num_attention_heads
    with torch.device("meta"):
        model = getattr(transformers, class_name)(config)
    queries = [layer for name, layer in model.named_modules() if name.endswith(("q_proj", "query"))]
    assert {layer.out_features for layer in queries} == {config.hidden_size}


def test_classes_without_a_plain_form():
    backbone = pruned("Dinov2Backbone").model
    config = type(backbone.config).from_dict({**backbone.config.to_dict(), "stage_depths": [1, 1, 0, 1]})
    with pytest.raises(ValueError, match="Blocks were dropped"):
        native_config(config, type(backbone))
    vit = convert(NATIVE["ViTModel", ""][0].example("ViTModel"))
    with pytest.raises(ValueError, match="transformers has no class for a SNPViTBackbone of the family ViT"):
        native_config(vit.config, type(backbone))


@pytest.mark.parametrize("fields", [{"use_cls_token": False, "use_pooler": False, "classifier_pooling": "mean"},
                                    {"num_register_tokens": 2}, {"interpolate_pos_encoding": True},
                                    {"use_gated_mlp": True}])  # fmt: skip
def test_options_that_transformers_has_not(fields):
    model = convert(NATIVE["ViTForImageClassification", ""][0].example("ViTForImageClassification"))
    config = type(model.config).from_dict({**model.config.to_dict(), **fields})
    name = next(iter(fields))
    with pytest.raises(ValueError, match=f"{name} is {fields[name]}, but as ViT transformers knows only"):
        native_config(config, type(model))


@pytest.mark.parametrize(
    ("class_name", "attention", "version"),
    [
        ("ViTForImageClassification", modeling_vit.ViTAttention, r"5\.9"),
        ("Dinov2Model", modeling_dinov2.Dinov2Attention, r"5\.18"),
        ("BeitModel", modeling_beit.BeitAttention, r"5\.9"),
    ],
)
def test_versions_that_do_not_read_the_size_of_a_head(class_name, attention, version, monkeypatch):
    """As older ones do it: the size of a head follows from the width."""
    model = pruned(class_name).model
    build = attention.__init__

    def build_by_width(self, config, *arguments, **options):
        head_dim = config.__dict__.pop("head_dim")
        config.hidden_size, width = 4 * config.num_attention_heads * head_dim, config.hidden_size
        build(self, config, *arguments, **options)
        config.hidden_size, config.head_dim = width, head_dim

    monkeypatch.setattr(attention, "__init__", build_by_width)
    with pytest.raises(ValueError, match=f"does not read the size of a head .* needs transformers >= {version}"):
        native_config(model.config, type(model))

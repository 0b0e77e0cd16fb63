"""Descriptions name everything that pruning touches, as it runs."""

import pytest
import torch
from torch import nn

from optimum_snp.families import convert
from optimum_snp.models import SNPSwinConfig, SNPSwinForImageClassification
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_macs
from tests.helpers import CLASSES, SWIN_CLASSES, build_source, inputs_for


def build(class_name, **options):
    if class_name == "SwinBackbone":
        options["out_features"] = ["stem", "stage2"]
    return convert(build_source(class_name, **options))


def shapes_of(model, image):
    """What every linear layer, convolution and norm puts out for one image: shapes by name."""
    shapes = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
            module.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
    with torch.no_grad():
        model(image)
    return shapes


@pytest.mark.parametrize("image_size", [32, 24, 40])
@pytest.mark.parametrize("class_name", CLASSES)
def test_rows_and_maps_are_those_of_a_forward_pass(class_name, image_size):
    model = build(class_name, image_size=image_size)
    structure = describe(model)
    shapes = shapes_of(model, inputs_for(model, 1, image_size))
    linears = {name for name in shapes if not isinstance(model.get_submodule(name), nn.LayerNorm)}
    assert structure.linear_rows.keys() == linears
    for name, rows in structure.linear_rows.items():
        module = model.get_submodule(name)
        outputs = module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
        assert rows * outputs == torch.Size(shapes[name]).numel(), name
    for block in structure.blocks:
        assert shapes[block.query][:2] == (block.num_maps, block.map_tokens)


@pytest.mark.parametrize("class_name", CLASSES)
def test_all_that_touches_a_stream_is_named_once(class_name):
    model = build(class_name, **({"use_absolute_embeddings": True} if class_name in SWIN_CLASSES else {}))
    streams = describe(model).streams
    norms = [norm.name for stream in streams for norm in stream.norms if norm.normalizes] + [
        scale for stream in streams for scale in stream.scales
    ]
    tower = "vision_model." if hasattr(model, "vision_model") else ""
    # What has a width of its own.
    whole = tuple(f"{tower}pooler.{name}" for name in ("q_proj", "o_proj", "layernorm", "fc1", "fc2"))
    whole += ("text_model.", "text_projection", "classifier_norm")
    modules = {name: module for name, module in model.named_modules() if not name.startswith(whole)}
    if hasattr(model, "classifier_norm"):
        del modules["classifier"]  # which reads it
    assert sorted(norms) == sorted(name for name, module in modules.items() if isinstance(module, nn.LayerNorm))
    writers = [writer for stream in streams for writer in stream.writers]
    readers = [reader for stream in streams for norm in stream.norms for reader in norm.readers]
    readers += [reader for stream in streams for reader in stream.readers]
    within = [layer for block in describe(model).blocks for layer in (block.output, block.down)]
    assert sorted({*writers, *readers}) == sorted(
        name for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))
    )
    assert len(set(writers)) == len(writers) and set(within) <= set(writers)
    assert len(set(readers)) == len(readers)
    vectors = [vector for stream in streams for vector in stream.vectors]
    assert all(vector in dict(model.named_parameters()) for vector in vectors)
    if class_name in SWIN_CLASSES:
        assert [vector.rpartition(".")[2] for vector in vectors] == ["position_embeddings"]
    for stream in streams:
        assert all(len(model.get_submodule(writer).weight) == stream.width for writer in stream.writers)
        assert all(model.get_parameter(vector).shape[-1] == stream.width for vector in stream.vectors)
        for norm in stream.norms:
            rows = stream.width * norm.repeats
            if norm.normalizes:
                assert model.get_submodule(norm.name).normalized_shape == (rows,)
            inputs = stream.width * norm.chunks
            assert all(model.get_submodule(reader).in_features == inputs for reader in norm.readers)


def test_a_first_stage_may_have_shifted_windows_alone():
    block = {"num_attention_heads": 1, "qk_head_dim": 4, "v_head_dim": 4, "intermediate_size": 8}
    block |= {"attention_scale": 0.5, "shift_size": 1}
    config = SNPSwinConfig(image_size=32, window_size=3, hidden_sizes=[8], block_configs=[[block]])
    config._attn_implementation = "eager"
    assert count_macs(SNPSwinForImageClassification(config)) > 0

"""Rotary positions and biases by relative position in training, compiled and exported."""

import copy

import pytest
import torch

from optimum_snp.families import convert
from tests.helpers import build_source, checkpoint_activations

from .comparison import assert_same, images_of


CLASSES = ("DINOv3ViTModel", "BeitForImageClassification")


@pytest.mark.parametrize("class_name", CLASSES)
def test_gradient_checkpointing_gives_the_same_gradients(class_name):
    plain = convert(build_source(class_name)).train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    assert all(layer.gradient_checkpointing for layer in checkpointed.base_model.layers)
    for model in (plain, checkpointed):
        model(images_of(32, 32))[0].square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None and one.grad.abs().max() > 0, name
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_half_precision_is_near_float32(class_name, implementation):
    model = convert(build_source(class_name, attn_implementation=implementation))
    with torch.inference_mode():
        expected = model(images_of(40, 24))[0]
        found = model.bfloat16()(images_of(40, 24))[0]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("class_name", CLASSES)
def test_graphs_are_captured_whole(class_name):
    """By compilation, and by export for any number of images."""
    model, images = convert(build_source(class_name)), images_of(32, 32, batch_size=3)
    torch.compiler.reset()  # the graphs of other tests count for a limit
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, (images_of(32, 32),), dynamic_shapes={"pixel_values": {0: batch}})
    with torch.inference_mode():
        expected = model(images)
        assert_same(compiled(images), expected)
        assert_same(exported.module()(images), expected)

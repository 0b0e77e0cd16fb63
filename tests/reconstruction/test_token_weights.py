import pytest
import torch

from optimum_snp.families import convert
from optimum_snp.reconstruction.token_weights import EVEN_SHARE, token_weights
from tests.helpers import build_source


IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def energies(model, layer, signs):
    """By the gradient at something that is added to the outputs of a layer."""
    added = []

    def add(_module, _inputs, output):
        added.append(torch.zeros_like(output, requires_grad=True))
        return output + added[-1]

    handle = model.get_submodule(layer).register_forward_hook(add)
    logits = model(IMAGES).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(((logits - logits.mean(-1, keepdim=True)) * signs).sum(), added)
    return gradient.square().sum(dim=(0, 2))


@pytest.mark.parametrize(
    "class_name, layer",
    [
        ("ViTForImageClassification", "snp_vit.layers.1.attention.o_proj"),
        ("ViTForImageClassification", "snp_vit.layers.1.mlp.fc2"),
        ("SwinForImageClassification", "snp_swin.stages.0.blocks.1.mlp.fc2"),
    ],
)
def test_weights_are_the_energy_of_the_gradient(class_name, layer):
    model = convert(build_source(class_name))
    signs = torch.randint(0, 2, (3, 5), generator=torch.Generator().manual_seed(0)) * 2 - 1
    energy = energies(model, layer, signs)
    found = token_weights(model, IMAGES)[layer]
    assert torch.allclose(found, EVEN_SHARE + (1 - EVEN_SHARE) * energy / energy.mean(), rtol=1e-4)
    assert found.mean().item() == pytest.approx(1, rel=1e-4)


def test_behind_the_last_attention_only_the_class_token_counts_more_than_evenly():
    weights = token_weights(convert(build_source("ViTForImageClassification")), IMAGES)["snp_vit.layers.2.mlp.fc2"]
    assert torch.allclose(weights[1:], torch.tensor(EVEN_SHARE))
    assert weights[0] > 1


def test_the_model_is_left_as_it_was():
    model = convert(build_source("ViTForImageClassification"))
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    token_weights(model, IMAGES)
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bare_models_and_backbones_have_weights_too():
    for class_name in ("ViTModel", "SwinBackbone"):
        assert all(
            torch.isfinite(found).all() for found in token_weights(convert(build_source(class_name)), IMAGES).values()
        )

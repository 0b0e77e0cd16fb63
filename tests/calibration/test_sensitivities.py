"""Sensitivities are what the Jacobian says, in the mean over random signs."""

import pytest
import torch

from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.structure import describe
from tests.helpers import build_source


def jacobian_energies(model, pixel_values, name):
    """The sum over images, tokens and centred logits of the gradients' outer products at the layer's output."""
    states = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, output: states.append(output))
    logits = model(pixel_values).logits
    handle.remove()
    logits = logits - logits.mean(-1, keepdim=True)
    total = 0
    for index in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, index].sum(), states, retain_graph=True)
        rows = gradient.flatten(0, 1).double()
        total = total + rows.T @ rows
    return total


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_they_are_the_energies_of_the_jacobian(class_name, pixel_values):
    model = convert(build_source(class_name))
    images = pixel_values[:4]
    structure = describe(model)
    runs = [collect_statistics(model, images, num_samples=4, seed=seed) for seed in range(40)]

    def mean(read):
        return torch.stack([read(run) for run in runs]).mean(0)

    block, norm = structure.blocks[-1], structure.streams[-1].norms[0]
    for name, layer in (("attention_sensitivity", "attention.o_proj"), ("mlp_sensitivity", "mlp.fc2")):
        expected = jacobian_energies(model, images, f"{block.name}.{layer}").trace()
        torch.testing.assert_close(mean(lambda run, name=name: run.blocks[-1][name]), expected, rtol=0.15, atol=0)
    heads, head_dim = block.module.attention.num_attention_heads, block.module.attention.qk_head_dim
    expected = jacobian_energies(model, images, f"{block.name}.attention.q_proj")
    expected = torch.stack([expected.view(heads, head_dim, heads, head_dim)[h, :, h] for h in range(heads)])
    found = mean(lambda run: run.blocks[-1]["query_sensitivity"])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.3 * expected.diagonal(dim1=1, dim2=2).max().item())
    scale = model.get_submodule(norm.name).weight.detach().double()
    expected = (jacobian_energies(model, images, norm.name).diagonal() * scale.square()).sum()
    torch.testing.assert_close(mean(lambda run: run.norms[norm.name]["sensitivity"]), expected, rtol=0.15, atol=0)
    assert all(run.blocks[0]["sensitivity_images"] == 4 for run in runs)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_that_of_the_last_norm_is_what_the_classifier_makes_of_its_input(class_name, pixel_values):
    """In Swin the classifier reads the mean token, so its weights alone say how the logits answer."""
    model = convert(build_source(class_name))
    norm = describe(model).streams[-1].norms[-1]
    runs = [collect_statistics(model, pixel_values[:4], num_samples=4, seed=seed) for seed in range(20)]
    found = torch.stack([run.norms[norm.name]["sensitivity"] / 4 for run in runs]).mean()
    jacobian = model.classifier.weight.detach().double() * model.get_submodule(norm.name).weight.detach().double()
    torch.testing.assert_close(found, (jacobian - jacobian.mean(0)).square().sum(), rtol=0.15, atol=0)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
@pytest.mark.parametrize(
    "labels", [{"num_labels": 1}, {"num_labels": 3, "problem_type": "multi_label_classification"}], ids=str
)
def test_logits_count_whole_without_softmax(class_name, labels, pixel_values):
    model = convert(build_source(class_name, **labels))
    norm = describe(model).streams[-1].norms[-1]
    runs = [collect_statistics(model, pixel_values[:4], num_samples=4, seed=seed) for seed in range(20)]
    found = torch.stack([run.norms[norm.name]["sensitivity"] / 4 for run in runs]).mean()
    jacobian = model.classifier.weight.detach().double() * model.get_submodule(norm.name).weight.detach().double()
    torch.testing.assert_close(found, jacobian.square().sum(), rtol=0.15, atol=0)


def test_a_few_images_are_enough(source, pixel_values):
    statistics = collect_statistics(convert(source), torch.randn(40, 3, 32, 32), num_samples=40, batch_size=7)
    assert statistics.num_images == 40
    assert statistics.blocks[0]["sensitivity_images"] == 16


def test_features_of_models_without_a_head_count(pixel_values):
    for class_name in ("ViTModel", "SwinModel", "SwinBackbone"):
        statistics = collect_statistics(convert(build_source(class_name)), pixel_values, num_samples=6)
        assert all(block["mlp_sensitivity"] > 0 for block in statistics.blocks)


def test_the_model_is_left_as_it_was(source, pixel_values):
    model = convert(source)
    frozen = model.base_model.layers[0].mlp.fc1.weight.requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    collect_statistics(model, pixel_values, num_samples=6)
    assert not frozen.requires_grad
    assert model.base_model.layers[1].mlp.fc1.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_they_can_be_left_out(source, pixel_values):
    model = convert(source)
    assert collect_statistics(model, pixel_values, num_samples=6).has_sensitivities
    assert not collect_statistics(model, pixel_values, num_samples=6, sensitivities=False).has_sensitivities
    assert not collect_statistics(model, pixel_values, num_samples=6, moments=False).has_sensitivities

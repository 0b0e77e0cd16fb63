"""Sources whose weights are not what pruning needs: one clear error each, before any work."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert
from tests.helpers import build_source


def test_a_classifier_that_the_config_does_not_know(source):
    source.classifier = nn.Linear(48, 7)
    with pytest.raises(
        ValueError, match=r"classifier has 7 outputs, but the config says num_labels=5.*config.id2label"
    ):
        SNPPruner.from_pretrained(source)
    source.config.num_labels = 7
    assert SNPPruner.from_pretrained(source).model.classifier.out_features == 7


def test_adapters(source):
    config = LoraConfig(target_modules=["q_proj"], r=2)
    source.add_adapter(config)
    with pytest.raises(ValueError, match=r"adapters of PEFT.*merge_and_unload"):
        convert(source)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_a_model_that_adapters_were_put_into(source):
    get_peft_model(source, LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(ValueError, match="adapters of PEFT"):
        convert(source)


def test_weights_that_are_not_there(source):
    with pytest.raises(ValueError, match=r"vit.embeddings.cls_token is on the meta device.*without device_map"):
        convert(source.to("meta"))


def test_quantised_weights(source):
    layer = source.vit.layers[0].mlp.fc1
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"is quantised.*quantise what comes out"):
        convert(source)


def test_inference_tensors():
    with torch.inference_mode():
        source = build_source("ViTForImageClassification")
    with pytest.raises(ValueError, match=r"cls_token was made under torch.inference_mode\(\)"):
        convert(source)


@pytest.mark.parametrize("class_name", ["ViTModel", "SwinBackbone", "Dinov2Model"])
def test_weights_that_are_no_numbers(class_name):
    source = build_source(class_name)
    name, parameter = list(source.named_parameters())[-3]
    with torch.no_grad():
        parameter.flatten()[-1] = torch.inf
    with pytest.raises(ValueError, match=f"The weight {name} has values that are NaN or infinite"):
        convert(source)


@pytest.mark.parametrize("class_name", ["DeiTModel", "SwinForImageClassification", "Dinov2Backbone"])
def test_what_is_frozen_stays_frozen(class_name, pixel_values):
    source = build_source(class_name)
    for name, parameter in source.named_parameters():
        parameter.requires_grad_("q_proj" not in name)
    pruner = SNPPruner.from_pretrained(source)
    assert all(
        parameter.requires_grad == ("q_proj" not in name) for name, parameter in pruner.model.named_parameters()
    )
    config = SNPConfig(hidden_sparsity=0.2, mlp_sparsity=0.5, dropped_blocks=[1])
    pruned = pruner.prune(config, calibration_dataset=pixel_values)
    assert all(parameter.requires_grad == ("q_proj" not in name) for name, parameter in pruned.named_parameters())


def test_a_dropped_block_takes_its_freezing_with_it(source, pixel_values):
    source.vit.layers[2].requires_grad_(False)
    pruned = SNPPruner.from_pretrained(source).prune(SNPConfig(dropped_blocks=[0]), calibration_dataset=pixel_values)
    frozen = {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in pruned.named_parameters() if ".layers.1." in name}


def test_layer_scale_alone_is_trained():
    """What is folded is trained where one of its factors was."""
    source = build_source("Dinov2Model")
    for name, parameter in source.named_parameters():
        parameter.requires_grad_(name.endswith("layer.1.layer_scale1.lambda1"))
    trained = {name for name, parameter in convert(source).named_parameters() if parameter.requires_grad}
    assert trained == {"layers.1.attention.o_proj.weight", "layers.1.attention.o_proj.bias"}


def test_weights_keep_their_precision(source):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = convert(source)
    finally:
        torch.set_default_dtype(before)
    assert model.dtype == torch.float32
    assert torch.equal(model.classifier.weight, source.classifier.weight)
    assert model.classifier.weight.data_ptr() != source.classifier.weight.data_ptr()

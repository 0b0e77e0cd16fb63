"""The architectures of pruned models, registered with the Auto classes on import.

With this package imported, `AutoModel.from_pretrained` needs no `trust_remote_code` for a pruned checkpoint. A model
saved from here carries the code of its architecture, so that it loads without this package as well.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForZeroShotImageClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from .snp_swin import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from .snp_vit import (
    SNPASTConfig,
    SNPASTForAudioClassification,
    SNPASTModel,
    SNPCLIPConfig,
    SNPCLIPModel,
    SNPMetaClip2Config,
    SNPMetaClip2Model,
    SNPSiglipConfig,
    SNPSiglipModel,
    SNPViTBackbone,
    SNPViTConfig,
    SNPViTForImageClassification,
    SNPViTModel,
)


AutoConfig.register(SNPViTConfig.model_type, SNPViTConfig)
AutoModel.register(SNPViTConfig, SNPViTModel)
AutoModelForImageClassification.register(SNPViTConfig, SNPViTForImageClassification)
AutoBackbone.register(SNPViTConfig, SNPViTBackbone)
AutoConfig.register(SNPASTConfig.model_type, SNPASTConfig)
AutoModel.register(SNPASTConfig, SNPASTModel)
AutoModelForAudioClassification.register(SNPASTConfig, SNPASTForAudioClassification)
AutoConfig.register(SNPSwinConfig.model_type, SNPSwinConfig)
AutoModel.register(SNPSwinConfig, SNPSwinModel)
AutoModelForImageClassification.register(SNPSwinConfig, SNPSwinForImageClassification)
AutoBackbone.register(SNPSwinConfig, SNPSwinBackbone)

for config_class, model_class in (
    (SNPCLIPConfig, SNPCLIPModel),
    (SNPMetaClip2Config, SNPMetaClip2Model),
    (SNPSiglipConfig, SNPSiglipModel),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    AutoModelForZeroShotImageClassification.register(config_class, model_class)
    config_class.register_for_auto_class("AutoConfig")
    model_class.register_for_auto_class("AutoModel")

# Makes `save_pretrained` copy the modeling files into the folder, also when a Trainer writes a checkpoint.
SNPViTConfig.register_for_auto_class("AutoConfig")
SNPViTModel.register_for_auto_class("AutoModel")
SNPViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")
SNPViTBackbone.register_for_auto_class("AutoBackbone")
SNPASTConfig.register_for_auto_class("AutoConfig")
SNPASTModel.register_for_auto_class("AutoModel")
SNPASTForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
SNPSwinConfig.register_for_auto_class("AutoConfig")
SNPSwinModel.register_for_auto_class("AutoModel")
SNPSwinForImageClassification.register_for_auto_class("AutoModelForImageClassification")
SNPSwinBackbone.register_for_auto_class("AutoBackbone")


# What a config describes may be so much larger than the weights that are stored for it; more is a mistake.
MOST_PER_WEIGHT, SPARE_NUMBERS = 4, 10_000_000

SNPModel: TypeAlias = (
    SNPViTModel
    | SNPViTForImageClassification
    | SNPViTBackbone
    | SNPASTModel
    | SNPASTForAudioClassification
    | SNPCLIPModel
    | SNPMetaClip2Model
    | SNPSiglipModel
    | SNPSwinModel
    | SNPSwinForImageClassification
    | SNPSwinBackbone
)


def has_classifier(model: PreTrainedModel) -> bool:
    """Whether a model is one of ours that classifies images, or sounds."""
    return model._auto_class in ("AutoModelForImageClassification", "AutoModelForAudioClassification")


def build_like(
    source: PreTrainedModel,
    model_class: type,
    config: PretrainedConfig,
    weights: dict[str, torch.Tensor],
    requires_grad: Mapping[str, bool] | None = None,
) -> SNPModel:
    """A model of ours with copies of `weights`, in eval mode.

    Device, dtype, attention implementation and name are those of `source`, since neither config nor weights hold them.

    Args:
        source (`PreTrainedModel`):
            The model that it is made from.
        model_class (`type`), config (`PretrainedConfig`):
            Of the new model.
        weights (`dict[str, torch.Tensor]`):
            All of its weights.
        requires_grad (`Mapping[str, bool]`, *optional*):
            Whether weights are trained, by name; those that it does not name are. By default as `weights` say.

    Raises:
        ValueError: If what the model computes from its sizes alone, such as the masks of shifted windows for images
            far too large, would take more memory than weights do.
    """
    config._attn_implementation = source.config._attn_implementation
    config._name_or_path = source.config._name_or_path
    with torch.device("meta"):  # all weights are given: to draw others first would only take time
        model = model_class(config)
    num_computed = sum(buffer.numel() for buffer in model.buffers())
    if num_computed > MOST_PER_WEIGHT * source.num_parameters() + SPARE_NUMBERS:
        raise ValueError(
            f"For images of {config.image_size} pixels this model would hold {num_computed:,} numbers beside its "
            "weights. Give the image_size that it was trained for."
        )
    if requires_grad is None:
        requires_grad = {name: weight.requires_grad for name, weight in weights.items()}
    copies = {}
    for name, weight in weights.items():
        dtype = source.dtype if weight.is_floating_point() else weight.dtype  # integers are indices
        copies[name] = weight.detach().to(device=source.device, dtype=dtype, copy=True).contiguous()
    model.load_state_dict(copies, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(requires_grad.get(name, True))
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # what fills buffers of transformers would draw weights, too
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):  # those that are computed, not saved
            module.to_empty(device=source.device, recurse=False)
            model._init_weights(module)
    return model.eval()


__all__ = [
    "SNPASTConfig",
    "SNPASTForAudioClassification",
    "SNPASTModel",
    "SNPCLIPConfig",
    "SNPCLIPModel",
    "SNPMetaClip2Config",
    "SNPMetaClip2Model",
    "SNPModel",
    "SNPSiglipConfig",
    "SNPSiglipModel",
    "SNPSwinBackbone",
    "SNPSwinConfig",
    "SNPSwinForImageClassification",
    "SNPSwinModel",
    "SNPViTBackbone",
    "SNPViTConfig",
    "SNPViTForImageClassification",
    "SNPViTModel",
    "build_like",
    "has_classifier",
]

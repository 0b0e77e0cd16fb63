"""The pruned ViT and DeiT. This folder's two other files are copied into every checkpoint."""

from .configuration_snp_vit import SNPViTConfig
from .modeling_snp_vit import SNPViTForImageClassification, SNPViTModel, SNPViTPreTrainedModel


__all__ = ["SNPViTConfig", "SNPViTForImageClassification", "SNPViTModel", "SNPViTPreTrainedModel"]

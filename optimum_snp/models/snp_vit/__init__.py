"""The pruned ViT, DeiT and DINOv2. This folder's two other files are copied into every checkpoint."""

from .configuration_snp_vit import SNPViTConfig
from .modeling_snp_vit import SNPViTBackbone, SNPViTForImageClassification, SNPViTModel, SNPViTPreTrainedModel


__all__ = ["SNPViTBackbone", "SNPViTConfig", "SNPViTForImageClassification", "SNPViTModel", "SNPViTPreTrainedModel"]

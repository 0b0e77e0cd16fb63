"""The pruned ViT, DeiT, DINOv2, AST and so on, and models of images and texts that have one as their vision tower.

This folder's other files are copied into every checkpoint that needs them.
"""

from .configuration_snp_ast import SNPASTConfig
from .configuration_snp_two_towers import SNPCLIPConfig, SNPMetaClip2Config, SNPSiglipConfig
from .configuration_snp_vit import SNPViTConfig
from .modeling_snp_ast import SNPASTForAudioClassification, SNPASTModel
from .modeling_snp_two_towers import SNPCLIPModel, SNPMetaClip2Model, SNPSiglipModel
from .modeling_snp_vit import SNPViTBackbone, SNPViTForImageClassification, SNPViTModel, SNPViTPreTrainedModel


__all__ = [
    "SNPASTConfig",
    "SNPASTForAudioClassification",
    "SNPASTModel",
    "SNPCLIPConfig",
    "SNPCLIPModel",
    "SNPMetaClip2Config",
    "SNPMetaClip2Model",
    "SNPSiglipConfig",
    "SNPSiglipModel",
    "SNPViTBackbone",
    "SNPViTConfig",
    "SNPViTForImageClassification",
    "SNPViTModel",
    "SNPViTPreTrainedModel",
]

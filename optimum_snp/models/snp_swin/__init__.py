"""The pruned Swin. This folder's two other files are copied into every checkpoint."""

from .configuration_snp_swin import SNPSwinConfig
from .modeling_snp_swin import SNPSwinBackbone, SNPSwinForImageClassification, SNPSwinModel, SNPSwinPreTrainedModel


__all__ = [
    "SNPSwinBackbone",
    "SNPSwinConfig",
    "SNPSwinForImageClassification",
    "SNPSwinModel",
    "SNPSwinPreTrainedModel",
]

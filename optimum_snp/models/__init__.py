"""The architectures of pruned models, registered with the Auto classes on import.

With this package imported, `AutoModel.from_pretrained` needs no `trust_remote_code` for a pruned checkpoint. A model
saved from here carries the code of its architecture, so that it loads without this package as well.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .snp_vit import SNPViTConfig, SNPViTForImageClassification, SNPViTModel


AutoConfig.register(SNPViTConfig.model_type, SNPViTConfig)
AutoModel.register(SNPViTConfig, SNPViTModel)
AutoModelForImageClassification.register(SNPViTConfig, SNPViTForImageClassification)

# Makes `save_pretrained` copy the modeling files into the folder, also when a Trainer writes a checkpoint.
SNPViTConfig.register_for_auto_class("AutoConfig")
SNPViTModel.register_for_auto_class("AutoModel")
SNPViTForImageClassification.register_for_auto_class("AutoModelForImageClassification")


__all__ = ["SNPViTConfig", "SNPViTForImageClassification", "SNPViTModel"]

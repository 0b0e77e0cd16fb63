"""The DeiT."""

import transformers
from transformers import PreTrainedModel

from ...models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..vit import ViTFamily


class DeiTFamily(ViTFamily):
    """A ViT with a distillation token."""

    title = "DeiT"
    model_types = ("deit",)
    source_classes = {
        "DeiTModel": SNPViTModel,
        "DeiTForImageClassification": SNPViTForImageClassification,
        "DeiTForImageClassificationWithTeacher": SNPViTForImageClassification,
    }
    refused = {}  # the ViT tells of them
    short_names = {
        "deit-tiny": "facebook/deit-tiny-patch16-224",
        "deit-small": "facebook/deit-small-patch16-224",
        "deit-base": "facebook/deit-base-patch16-224",
    }

    def native_class(self, config: SNPViTConfig, model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
        """See [`Family.native_class`]; a second classifier makes a class of its own."""
        if config.use_distillation_head:
            return transformers.DeiTForImageClassificationWithTeacher
        return super().native_class(config, model_class)

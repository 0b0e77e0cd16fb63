"""The DeiT."""

from ...models import SNPViTForImageClassification, SNPViTModel
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
    short_names = {
        "deit-tiny": "facebook/deit-tiny-patch16-224",
        "deit-small": "facebook/deit-small-patch16-224",
        "deit-base": "facebook/deit-base-patch16-224",
    }

"""ViT and DeiT of transformers, rewritten in our architecture.

Only this file knows the names of their modules. Both families share one layout (transformers >= 5.9), and ours has
the same names below the base model, so that weights move over without change.
"""

import torch
from transformers import PreTrainedModel

from ..models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel, build_like
from .source import config_fields, network_weights


# Source class -> ours. Transformers writes these names into `architectures` of config.json.
ARCHITECTURES = {
    "ViTModel": SNPViTModel,
    "ViTForImageClassification": SNPViTForImageClassification,
    "DeiTModel": SNPViTModel,
    "DeiTForImageClassification": SNPViTForImageClassification,
    "DeiTForImageClassificationWithTeacher": SNPViTForImageClassification,
}


def convert_vit(source: PreTrainedModel) -> SNPViTModel | SNPViTForImageClassification:
    """Builds our dense model with the weights of a ViT or DeiT.

    Args:
        source (`PreTrainedModel`):
            A model of one of the classes in `ARCHITECTURES`. It is not changed and shares no weights with the result.

    Returns:
        [`SNPViTModel`] or [`SNPViTForImageClassification`]: The same function, in eval mode, on the same device and
        in the same dtype.
    """
    base_model = source.base_model
    config = SNPViTConfig(
        **config_fields(source),
        use_distillation_token=getattr(base_model.embeddings, "distillation_token", None) is not None,
        use_distillation_head=hasattr(source, "distillation_classifier"),
        use_pooler=base_model.pooler is not None,
    )
    return build_like(source, ARCHITECTURES[type(source).__name__], config, our_weights(source))


def our_weights(source: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of `source` under the names of our architecture."""
    return {_our_name(name): weight for name, weight in network_weights(source).items()}


def _our_name(name: str) -> str:
    for prefix in ("vit.", "deit."):
        if name.startswith(prefix):
            return "snp_vit." + name.removeprefix(prefix)
    return "classifier." + name.removeprefix("cls_classifier.") if name.startswith("cls_classifier.") else name

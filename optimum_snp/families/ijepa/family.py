"""I-JEPA: a ViT without a class token."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..example import random_example
from ..family import Family, NativeSizes, Weights, blocks_with_head_dim, config_fields
from ..vit.family import EXAMPLE_SIZES, native_config, our_name


class IJepaFamily(Family):
    """The network of a ViT whose tokens are patches only; a classifier reads their mean."""

    title = "I-JEPA"
    model_types = ("ijepa",)
    source_classes = {"IJepaModel": SNPViTModel, "IJepaForImageClassification": SNPViTForImageClassification}
    short_names = {"ijepa-huge": "facebook/ijepa_vith14_1k"}
    native_version = "5.9"

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        if source.base_model.pooler is not None:
            raise ValueError(
                "This IJepaModel has a pooler (add_pooling_layer), which reads the first patch for want of a class "
                "token. Load it without: the pooler of no checkpoint was trained."
            )
        fields = {**config_fields(source), **blocks_with_head_dim(source, source.config.intermediate_size)}
        return SNPViTConfig(**{**fields, "use_cls_token": False, "classifier_pooling": "mean", "use_pooler": False})

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]."""
        # Only pretraining reads the mask token.
        return {our_name(name): weight for name, weight in weights.items() if not name.endswith("mask_token")}

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]."""
        needed = {"use_cls_token": False, "classifier_pooling": "mean", "use_pooler": False}
        return native_config(config, self, native_class, sizes, **needed)

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: as of the ViT, with 16 tokens."""
        return random_example(class_name, transformers.IJepaConfig, **{**EXAMPLE_SIZES, **options})

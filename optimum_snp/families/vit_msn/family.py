"""ViT-MSN: a ViT without a pooler."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..example import random_example
from ..family import Family, NativeSizes, Weights, blocks_with_head_dim, config_fields
from ..vit.family import EXAMPLE_SIZES, native_config, our_name


class ViTMSNFamily(Family):
    """The network of a ViT, trained so that masked images are told apart as whole ones are."""

    title = "ViT-MSN"
    model_types = ("vit_msn",)
    source_classes = {"ViTMSNModel": SNPViTModel, "ViTMSNForImageClassification": SNPViTForImageClassification}
    short_names = {f"vit-msn-{size}": f"facebook/vit-msn-{size}" for size in ("small", "base", "large")}
    native_version = "5.9"

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        fields = {**config_fields(source), **blocks_with_head_dim(source, source.config.intermediate_size)}
        return SNPViTConfig(**{**fields, "use_pooler": False})

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]."""
        # Only masked-image pretraining reads the mask token.
        return {our_name(name): weight for name, weight in weights.items() if not name.endswith("mask_token")}

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]."""
        return native_config(config, self, native_class, sizes, use_pooler=False)

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: as of the ViT."""
        return random_example(class_name, transformers.ViTMSNConfig, **{**EXAMPLE_SIZES, **options})

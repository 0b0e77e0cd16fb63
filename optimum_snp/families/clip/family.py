"""CLIP and MetaCLIP 2, whose networks are the same."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import (
    SNPCLIPModel,
    SNPMetaClip2Model,
    SNPViTConfig,
    SNPViTForImageClassification,
    SNPViTModel,
)
from ...models.snp_vit.configuration_snp_two_towers import SNPTwoTowersConfig
from ..example import random_model
from ..family import Weights
from ..vision_tower import (
    VisionTowerFamily,
    below_base_model,
    example_config,
    tower_fields,
    tower_weights,
    two_towers_config,
    two_towers_weights,
    vision_config_of,
    vision_weights_of,
)


class CLIPFamily(VisionTowerFamily):
    """A norm before the blocks, a norm over the pooled class token, and a projection into the space of texts.

    A classifier reads the mean of the patches as the last block leaves them, without a norm.
    """

    title = "CLIP"
    model_types = ("clip_vision_model", "clip", "metaclip_2_vision_model", "metaclip_2")
    source_classes = {
        f"{kind}{name}": ours
        for kind, towers in (("CLIP", SNPCLIPModel), ("MetaClip2", SNPMetaClip2Model))
        for name, ours in (
            ("Model", towers),
            ("VisionModel", SNPViTModel),
            ("VisionModelWithProjection", SNPViTModel),
            ("ForImageClassification", SNPViTForImageClassification),
        )
    }
    short_names = {
        "clip-base": "openai/clip-vit-base-patch32",
        "clip-large": "openai/clip-vit-large-patch14",
    }
    limits = (
        "the text tower of a `Model`, and the width of a `VisionModel` within a budget, since its tokens are an "
        "output without a norm"
    )
    refused = {
        f"{kind}Text": "it reads texts, and only networks that read images are pruned. Nearest to it is "
        f"{kind}VisionModelWithProjection."
        for kind in ("CLIP", "MetaClip2")
    }

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig | SNPTwoTowersConfig:
        """See [`Family.convert_config`]."""
        is_classifier = hasattr(source, "classifier")
        fields = tower_fields(source) | {
            "patch_embedding_bias": False,
            "use_pre_layernorm": True,
            "use_final_layernorm": not is_classifier,
            "classifier_pooling": "mean",
        }
        if not is_classifier:
            fields |= {"use_pooler": True, "pooler_type": "cls", "norm_after_pooling": True}
        if hasattr(source, "text_model"):
            return two_towers_config(source, self.target_class(source).config_class, SNPViTConfig(**fields))
        if hasattr(source, "visual_projection"):
            fields["projection_size"] = vision_config_of(source).projection_dim
        return SNPViTConfig(**fields)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; a classifier does not read the last norm."""
        if model_class in (SNPCLIPModel, SNPMetaClip2Model):
            return two_towers_weights(weights, vision_weights_of(weights))
        ours = tower_weights(weights)
        if model_class is not SNPViTForImageClassification:
            return ours
        return below_base_model({name: weight for name, weight in ours.items() if not name.startswith("layernorm.")})

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 8, MLP 64, 17 tokens."""
        kind = "MetaClip2" if class_name.startswith("MetaClip2") else "CLIP"
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "projection_dim": 24,
            "image_size": 32,
            "patch_size": 8,
            "initializer_range": 0.1,
            "initializer_factor": 2.0,
        }
        if "Vision" in class_name:
            config_class = getattr(transformers, f"{kind}VisionConfig")
            return random_model(class_name, config_class(**{**sizes, **options}))
        config_class = getattr(transformers, f"{kind}Config")
        return random_model(class_name, example_config(config_class, sizes, {"projection_dim": 24, **options}))

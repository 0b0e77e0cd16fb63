"""SigLIP; checkpoints of SigLIP 2 for one resolution are models of its classes."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPSiglipModel, SNPViTConfig, SNPViTForImageClassification, SNPViTModel
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


class SigLIPFamily(VisionTowerFamily):
    """No class token; a head with an attention and an MLP of its own pools the tokens.

    The head stays whole: only what it reads of the stream follows the width. A classifier reads the mean of all
    tokens.
    """

    title = "SigLIP"
    model_types = ("siglip_vision_model", "siglip")
    source_classes = {
        "SiglipModel": SNPSiglipModel,
        "SiglipVisionModel": SNPViTModel,
        "SiglipForImageClassification": SNPViTForImageClassification,
    }
    short_names = {
        "siglip-base": "google/siglip-base-patch16-224",
        "siglip2-base": "google/siglip2-base-patch16-224",
    }
    limits = "the text tower of a `SiglipModel`, and the pooling head, but for what it reads of the width"
    refused = {
        "Siglip2": "it reads patches in sequences of any length, with a mask and with position embeddings that are "
        "resized for every image (NaFlex), and no stage here knows of masks. Nearest to it are the checkpoints of "
        "SigLIP 2 for one resolution, whose class is SiglipVisionModel.",
        "SiglipText": "it reads texts, and only networks that read images are pruned. Nearest to it is "
        "SiglipVisionModel.",
    }

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig | SNPTwoTowersConfig:
        """See [`Family.convert_config`]."""
        fields = tower_fields(source) | {"use_cls_token": False, "classifier_pooling": "mean"}
        vision_config = vision_config_of(source)
        if not hasattr(source, "classifier") and vision_config.vision_use_head:
            fields |= {
                "use_pooler": True,
                "pooler_type": "attention",
                "pooler_act": vision_config.hidden_act,
                "pooler_num_attention_heads": vision_config.num_attention_heads,
                "pooler_intermediate_size": vision_config.intermediate_size,
            }
        if hasattr(source, "text_model"):
            return two_towers_config(source, self.target_class(source).config_class, SNPViTConfig(**fields))
        return SNPViTConfig(**fields)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; a classifier does not read the pooling head."""
        if model_class is SNPSiglipModel:
            return two_towers_weights(weights, _pooler_weights(vision_weights_of(weights)))
        ours = tower_weights(weights)
        if model_class is SNPViTForImageClassification:
            return below_base_model({name: weight for name, weight in ours.items() if not name.startswith("head.")})
        return _pooler_weights(ours)

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 8, MLP 64, 16 tokens."""
        sizes = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
        }
        if class_name == "SiglipVisionModel":
            return random_model(class_name, transformers.SiglipVisionConfig(**{**sizes, **options}))
        return random_model(class_name, example_config(transformers.SiglipConfig, sizes, options))

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]."""
        return {"no head": {"vision_use_head": False}} if class_name == "SiglipVisionModel" else {}


def _pooler_weights(weights: Weights) -> Weights:
    """The same weights, with the layers of the pooling head under our names, and one each for its fused ones."""
    ours = {}
    for name, weight in weights.items():
        for part in ("head.attention.", "head.mlp.", "head."):
            name = name.replace(part, "pooler.")
        if ".in_proj_" in name:
            for layer, rows in zip(("q_proj", "k_proj", "v_proj"), weight.chunk(3), strict=True):
                ours[name.replace("in_proj_", f"{layer}.")] = rows
        else:
            ours[name] = weight
    return ours

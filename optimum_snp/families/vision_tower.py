"""What the vision towers of CLIP and SigLIP have in common: the names of their configs and weights."""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..models import SNPViTConfig
from ..models.snp_vit.configuration_snp_two_towers import SNPTwoTowersConfig
from ..models.snp_vit.modeling_snp_vit import SNPViTModelOutput
from .family import Family, Weights, config_fields


# What their configs say of the other tower, of training, or in words of their own.
_NOT_OURS = (
    "architectures",
    "attention_dropout",
    "initializer_factor",
    "logit_scale_init_value",
    "model_type",
    "projection_dim",
    "text_config",
    "transformers_version",
    "vision_config",
    "vision_use_head",
)
# What their configs say of both towers.
_OF_BOTH_TOWERS = ("projection_dim", "logit_scale_init_value", "initializer_factor")
# What options of an example say of the whole model, not of its vision tower.
_OF_THE_WHOLE = (
    "attn_implementation",
    "dtype",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "projection_dim",
)
# Of the names of weights the parts that are others in ours.
_RENAMED = {
    "class_embedding": "cls_token",
    "patch_embedding.": "patch_embeddings.projection.",
    "position_embedding.weight": "position_embeddings",
    "pre_layrnorm.": "pre_layernorm.",
    "encoder.layers.": "layers.",
    "layer_norm1.": "layernorm_before.",
    "layer_norm2.": "layernorm_after.",
    "self_attn.": "attention.",
    "out_proj.": "o_proj.",
}


class VisionTowerFamily(Family):
    """A family whose sources are vision towers, alone or in models of images and texts."""

    def source_outputs(self, source: PreTrainedModel, pixel_values: torch.Tensor, **options: Any) -> ModelOutput:
        """See [`Family.source_outputs`]."""
        if hasattr(source, "text_model"):
            return image_outputs(source, pixel_values, **options)
        return super().source_outputs(source, pixel_values, **options)


def vision_config_of(source: PreTrainedModel) -> PretrainedConfig:
    """The config of the vision tower of a model, which may be all that there is."""
    return getattr(source.config, "vision_config", source.config)


def tower_fields(source: PreTrainedModel) -> dict[str, Any]:
    """What our config takes over from that of a vision tower, with the labels of a classifier.

    Raises:
        ValueError: If the images or patches that it is made for are no squares.
    """
    vision_config = vision_config_of(source)
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(vision_config, name), int):
            raise ValueError(
                f"{name} is {getattr(vision_config, name)!r}. Position embeddings of a {type(source).__name__} are "
                "read as a square, so only one number, for squares, can be converted."
            )
    fields = {**vision_config.to_dict(), **config_fields(source)}
    fields = {name: value for name, value in fields.items() if name not in _NOT_OURS}
    return {**fields, "attention_probs_dropout_prob": vision_config.attention_dropout}


def tower_weights(weights: Weights) -> Weights:
    """The weights of a vision tower, and of what stands behind it, under our names below the base model."""
    ours = {}
    for name, weight in weights.items():
        if name.startswith(("text_", "logit_")):
            continue
        name = name.removeprefix("vision_model.")
        for theirs, our_name in _RENAMED.items():
            name = name.replace(theirs, our_name)
        if name == "embeddings.cls_token":
            weight = weight[None, None]
        elif name == "embeddings.position_embeddings":
            weight = weight[None]
        elif name.startswith("post_layernorm."):
            name = name.removeprefix("post_")
        ours[name] = weight
    return ours


def two_towers_config(
    source: PreTrainedModel, config_class: type[SNPTwoTowersConfig], vision_config: SNPViTConfig
) -> SNPTwoTowersConfig:
    """The config of a whole model of images and texts whose vision tower has a config of ours."""
    config = source.config
    return config_class(
        text_config=config.text_config.to_dict(),
        vision_config=vision_config.to_dict(),
        source_model_type=config.model_type,
        **{name: getattr(config, name) for name in _OF_BOTH_TOWERS if hasattr(config, name)},
    )


def two_towers_weights(weights: Weights, vision_weights: Weights) -> Weights:
    """All weights of a model of images and texts, of which those of its vision tower are ours."""
    others = {name: weight for name, weight in weights.items() if not name.startswith("vision_model.")}
    return others | {f"vision_model.{name}": weight for name, weight in vision_weights.items()}


def vision_weights_of(weights: Weights) -> Weights:
    """Those of the vision tower among the weights of a model of images and texts, under our names."""
    return tower_weights({name: weight for name, weight in weights.items() if name.startswith("vision_model.")})


def image_outputs(source: PreTrainedModel, pixel_values: torch.Tensor, **options: Any) -> ModelOutput:
    """What a model of images and texts makes of images alone; its embeddings are not of length 1."""
    outputs = source.vision_model(pixel_values, **options)
    projection = getattr(source, "visual_projection", nn.Identity())
    return SNPViTModelOutput(
        last_hidden_state=outputs.last_hidden_state,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
        image_embeds=projection(outputs.pooler_output),
    )


def example_config(
    config_class: type[PretrainedConfig], sizes: dict[str, Any], options: dict[str, Any]
) -> PretrainedConfig:
    """The config of an image classifier with 5 labels, or of both towers, whose vision tower has these sizes.

    Args:
        config_class (`type`):
            Its class, with a config of each tower inside.
        sizes (`dict`):
            For the vision tower.
        options (`dict`):
            For either; they win.
    """
    whole = {name: value for name, value in options.items() if name in _OF_THE_WHOLE}
    vision = {name: value for name, value in options.items() if name not in _OF_THE_WHOLE}
    labels = {} if "id2label" in options else {"num_labels": 5}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 50,
        "max_position_embeddings": 8,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "projection_size": sizes["hidden_size"],  # SigLIP
    }
    return config_class(vision_config={**sizes, **vision}, text_config=text, **{**labels, **whole})


def below_base_model(weights: Weights) -> Weights:
    """The same weights by their names in an image classifier."""
    return {name if name.startswith("classifier.") else f"snp_vit.{name}": weight for name, weight in weights.items()}

"""DINOv3."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPViTBackbone, SNPViTConfig, SNPViTModel
from ..example import random_example
from ..family import Family, Weights, config_fields
from .weights import convert_weights


# Of the source config: under another name or folded into weights here, or read by training alone.
_UNREAD_FIELDS = (
    "attention_dropout",
    "query_bias",
    "value_bias",
    "proj_bias",
    "mlp_bias",
    "layerscale_value",
    "stage_names",
    "pos_embed_shift",
    "pos_embed_jitter",
    "pos_embed_rescale",
)


class DINOv3Family(Family):
    """A ViT with rotary positions on its patches, registers, layer scale, and keys without bias.

    In training transformers shifts and stretches the positions at random; ours stay where they are.
    """

    title = "DINOv3"
    model_types = ("dinov3_vit",)
    source_classes = {"DINOv3ViTModel": SNPViTModel, "DINOv3ViTBackbone": SNPViTBackbone}
    short_names = {
        f"dinov3-{size}": f"facebook/dinov3-{size}-pretrain-lvd1689m"
        for size in ("vits16", "vits16plus", "vitb16", "vitl16", "vith16plus", "vit7b16")
    }
    limits = (
        "one neuron of queries and keys alone, since they go in pairs; the width of a backbone with "
        "`apply_layernorm=False` within a budget"
    )
    refused = {
        "DINOv3ConvNext": "it is a convolutional network without attention. Of DINOv3, DINOv3ViTModel and "
        "DINOv3ViTBackbone can be pruned."
    }

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        config = source.config
        fields = {name: value for name, value in config_fields(source).items() if name not in _UNREAD_FIELDS}
        is_backbone = self.source_classes[type(source).__name__] is SNPViTBackbone
        if is_backbone:
            _check_backbone(config)
        else:
            fields |= {"out_features": None, "out_indices": None}
        fields |= {
            "attention_probs_dropout_prob": config.attention_dropout,
            "qkv_bias": _qkv_bias(config),
            "use_position_embeddings": False,
            "rope_head_dim": _head_dim(config),
            "use_pooler": not is_backbone,
            "pooler_type": "cls",
            "interpolate_pos_encoding": True,
        }
        return SNPViTConfig(**fields)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; layer scale goes into what it scales."""
        if model_class is SNPViTBackbone and not config.apply_layernorm:
            weights = {name: weight for name, weight in weights.items() if not name.startswith("norm.")}
        return convert_weights(
            weights,
            prefix="" if model_class is SNPViTModel else "snp_vit.",
            num_attention_heads=config.num_attention_heads,
            head_dim=_head_dim(config),
            is_gated=config.use_gated_mlp,
            qkv_bias=_qkv_bias(config),
        )

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 12, MLP 96, 16 patches, 2 registers."""
        sizes = {
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "patch_size": 8,
            "num_register_tokens": 2,
            "layerscale_value": 0.5,
        }
        return random_example(class_name, transformers.DINOv3ViTConfig, **{**sizes, **options})

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]: the biases and the gated MLP of the largest, and what a backbone may put out."""
        if class_name == "DINOv3ViTModel":
            large = {"use_gated_mlp": True, "query_bias": False, "value_bias": False, "hidden_act": "silu"}
            return {"gated": {**large, "num_register_tokens": 0}}
        return {"raw": {"out_features": ["stem", "stage1", "stage2"], "apply_layernorm": False}}


def _head_dim(config: PretrainedConfig) -> int:
    return config.hidden_size // config.num_attention_heads


def _qkv_bias(config: PretrainedConfig) -> bool:
    return config.query_bias or config.value_bias


def _check_backbone(config: PretrainedConfig) -> None:
    """Raises a `ValueError` for what a backbone of DINOv3 puts out and ours does not."""
    if not config.reshape_hidden_states:
        raise ValueError(
            "reshape_hidden_states is False: a DINOv3ViTBackbone then gives the patches as a list. Set it to True, "
            "for feature maps [batch, hidden_size, height, width]."
        )
    if getattr(config, "return_class_token", False):
        raise ValueError(
            "return_class_token is True, but a pruned backbone gives feature maps alone. Set it to False, or prune a "
            "DINOv3ViTModel, whose pooler_output is the class token."
        )
    last = config.stage_names[-1]
    if not config.apply_layernorm and last in config.out_features:
        raise ValueError(
            f"apply_layernorm is False, but a DINOv3ViTBackbone norms its last stage even so. Set it to True, or "
            f"leave {last!r} out of out_features."
        )

"""DINOv2, with and without register tokens."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPViTBackbone, SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..example import random_example
from ..family import Family, Weights, config_fields
from .weights import convert_weights


class DINOv2Family(Family):
    """A ViT with layer scale, a pooled class token, and a classifier that also reads the mean of the patches."""

    title = "DINOv2"
    model_types = ("dinov2", "dinov2_with_registers")
    source_classes = {
        "Dinov2Model": SNPViTModel,
        "Dinov2ForImageClassification": SNPViTForImageClassification,
        "Dinov2Backbone": SNPViTBackbone,
        "Dinov2WithRegistersModel": SNPViTModel,
        "Dinov2WithRegistersForImageClassification": SNPViTForImageClassification,
        "Dinov2WithRegistersBackbone": SNPViTBackbone,
    }
    short_names = {
        f"dinov2-{registers}{size}": f"facebook/dinov2-{registers}{size}"
        for registers in ("", "with-registers-")
        for size in ("small", "base", "large", "giant")
    }

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        config = source.config
        for name in ("image_size", "patch_size"):
            if not isinstance(getattr(config, name), int):
                raise ValueError(
                    f"{name} is {getattr(config, name)!r}. DINOv2 reads its position embeddings as a square, so only "
                    "one number, for squares, can be converted."
                )
        fields = config_fields(source)
        is_bare = self.source_classes[type(source).__name__] is SNPViTModel
        is_classifier = hasattr(source, "classifier")
        fields |= {
            "intermediate_size": _intermediate_size(source),
            "use_gated_mlp": config.use_swiglu_ffn,
            "hidden_act": "silu" if config.use_swiglu_ffn else config.hidden_act,
            "num_register_tokens": getattr(config, "num_register_tokens", 0),
            "use_pooler": is_bare,
            "pooler_type": "cls",
            "classifier_pooling": "cls_mean" if is_classifier else None,
            "interpolate_pos_encoding": True,
            "interpolation_antialias": config.model_type == "dinov2_with_registers",
        }
        for name in ("mlp_ratio", "use_swiglu_ffn", "layerscale_value", "use_mask_token", "stage_names"):
            fields.pop(name, None)
        if not hasattr(source, "out_features"):  # no backbone
            fields |= {"out_features": None, "out_indices": None}
        return SNPViTConfig(**fields)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; layer scale goes into what it scales."""
        if model_class is SNPViTBackbone and not config.apply_layernorm:
            weights = {name: weight for name, weight in weights.items() if not name.startswith("layernorm.")}
        return convert_weights(weights, is_bare=model_class is SNPViTModel)

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 12, MLP 96 or 64 gated pairs, 16 patches."""
        with_registers = "WithRegisters" in class_name
        config_class = transformers.Dinov2WithRegistersConfig if with_registers else transformers.Dinov2Config
        sizes = {
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 2,
            "patch_size": 8,
            "layerscale_value": 0.5,
        }
        return random_example(class_name, config_class, **{**sizes, **options})

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]: the gated MLP of the giant, and for one backbone what it may put out."""
        if class_name != "Dinov2Backbone":
            return {"gated": {"use_swiglu_ffn": True}} if "WithRegisters" in class_name else {}
        stages = ["stem", "stage1", "stage3"]
        return {
            "tokens": {"out_features": stages, "reshape_hidden_states": False},
            "raw": {"out_features": stages, "apply_layernorm": False},
        }


def _intermediate_size(source: PreTrainedModel) -> int:
    """The neurons of one MLP, by its weights: transformers rounds them in its own way."""
    names = [
        name for name, _ in source.named_parameters() if name.endswith(("mlp.fc2.weight", "mlp.down_proj.weight"))
    ]
    return source.get_parameter(names[0]).shape[1]

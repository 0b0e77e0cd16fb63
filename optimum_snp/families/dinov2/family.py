"""DINOv2, with and without register tokens."""

from collections.abc import Sequence
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPViTBackbone, SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..example import random_example
from ..family import (
    Family,
    NativeSizes,
    Weights,
    blocks_with_head_dim,
    config_fields,
    native_fields,
    require,
    require_whole_stages,
)
from .weights import convert_weights, native_weights


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

    limits = "the width of a backbone with `apply_layernorm=False` within a budget"
    native_version = "5.18"

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
        intermediate_size = _intermediate_size(source)
        fields |= {
            **blocks_with_head_dim(source, intermediate_size),
            "intermediate_size": intermediate_size,
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

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]; MLPs have sizes that a whole `mlp_ratio` gives.

        Stages of a backbone are counted by the blocks that are left.
        """
        has_registers = native_class.config_class.model_type == "dinov2_with_registers"
        is_backbone = hasattr(native_class, "out_features")
        require(
            config,
            self,
            use_cls_token=True,
            use_distillation_token=False,
            use_pre_layernorm=False,
            interpolate_pos_encoding=True,
            interpolation_antialias=has_registers,
            apply_layernorm=True,
        )
        if not has_registers:
            require(config, self, num_register_tokens=0)
        if config.use_gated_mlp:
            require(config, self, hidden_act="silu")
        if native_class.__name__.endswith("ForImageClassification"):
            require(config, self, classifier_pooling="cls_mean")
        elif not is_backbone:
            require(config, self, use_pooler=True, pooler_type="cls")
        if is_backbone:
            require_whole_stages(config, self)
        allowed = self.native_intermediate_sizes(config, config.hidden_size, sizes.intermediate_size)
        if sizes.intermediate_size not in allowed:
            larger = self.native_intermediate_sizes(config, config.hidden_size, 8 * config.hidden_size)
            raise ValueError(
                f"intermediate_size is {sizes.intermediate_size}, but with hidden_size {config.hidden_size} DINOv2 of "
                f"transformers, whose mlp_ratio is an integer, has only {', '.join(map(str, larger))} and so on. "
                "Choose one of them, or save it with layout='snp'."
            )
        config_class = native_class.config_class
        fields = native_fields(config, config_class) | {
            "num_attention_heads": sizes.num_attention_heads,
            "head_dim": sizes.head_dim,
            "mlp_ratio": 1 + list(allowed).index(sizes.intermediate_size),
            "use_swiglu_ffn": config.use_gated_mlp,
            "layerscale_value": 1.0,
        }
        if not has_registers:
            fields["use_mask_token"] = False
        return config_class(**fields)

    def native_weights(
        self, weights: Weights, native_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.native_weights`]; layer scale comes back as ones."""
        return native_weights(weights, native_class)

    def native_intermediate_sizes(self, config: SNPViTConfig, hidden_size: int, largest: int) -> Sequence[int]:
        """See [`Family.native_intermediate_sizes`]: those of `mlp_ratio` 1, 2, and so on."""
        sizes = (
            _gated_size(hidden_size * ratio) if config.use_gated_mlp else hidden_size * ratio
            for ratio in range(1, 2 * largest // hidden_size + 2)
        )
        return [size for size in sizes if size <= largest]

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
        return {
            "tokens": {"out_features": ["stem", "stage2"], "reshape_hidden_states": False},  # not of the last block
            "raw": {"out_features": ["stem", "stage1", "stage3"], "apply_layernorm": False},
        }


def _gated_size(neurons: int) -> int:
    """The pairs of a gated MLP that has the weights of a plain one with so many neurons, as transformers rounds."""
    return (int(neurons * 2 / 3) + 7) // 8 * 8


def _intermediate_size(source: PreTrainedModel) -> int:
    """The neurons of one MLP, by its weights: transformers rounds them in its own way."""
    names = [
        name for name, _ in source.named_parameters() if name.endswith(("mlp.fc2.weight", "mlp.down_proj.weight"))
    ]
    return source.get_parameter(names[0]).shape[1]

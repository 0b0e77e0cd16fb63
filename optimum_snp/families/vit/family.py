"""The ViT."""

from dataclasses import asdict
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..example import random_example
from ..family import Family, NativeSizes, Weights, blocks_with_head_dim, config_fields, native_fields, require


# Of examples, for tests and trials.
EXAMPLE_SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "patch_size": 8,
}


class ViTFamily(Family):
    """Class token, position embeddings, norms before both halves of a block; the DeiT is one with another token."""

    title = "ViT"
    model_types = ("vit",)
    source_classes = {"ViTModel": SNPViTModel, "ViTForImageClassification": SNPViTForImageClassification}
    short_names = {
        "vit-small": "WinKawaks/vit-small-patch16-224",
        "vit-base": "google/vit-base-patch16-224",
    }
    optional_modules = ("pooler",)
    refused = {
        "Yolos": "its tokens that find objects stand behind the patches, where the ViT here has none, it can add "
        "position embeddings between the blocks, and boxes are neither trained nor measured here. Nearest to its "
        "network is a ViTModel.",
    }
    native_version = "5.9"

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        base_model = source.base_model
        return SNPViTConfig(
            **config_fields(source),
            **blocks_with_head_dim(source, source.config.intermediate_size),
            use_distillation_token=getattr(base_model.embeddings, "distillation_token", None) is not None,
            use_distillation_head=hasattr(source, "distillation_classifier"),
            use_pooler=base_model.pooler is not None,
        )

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; ours has the same names below the base model."""
        # Only masked-image pretraining reads the mask token.
        return {our_name(name): weight for name, weight in weights.items() if not name.endswith("mask_token")}

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]."""
        if config.use_pooler:
            require(config, self, pooler_type="dense")
        is_deit = native_class.__name__.startswith("DeiT")
        return native_config(config, self, native_class, sizes, use_distillation_token=is_deit)

    def native_weights(
        self, weights: Weights, native_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.native_weights`]."""
        theirs = super().native_weights(weights, native_class, config)
        if "distillation_classifier.weight" in theirs:
            for part in ("weight", "bias"):
                theirs[f"cls_classifier.{part}"] = theirs.pop(f"classifier.{part}")
        return theirs

    def title_of(self, config: SNPViTConfig, name: str) -> str:
        """See [`Family.title_of`]; a DeiT without distillation is saved as a ViT."""
        return "DeiT" if config.use_distillation_token or "deit" in name.lower() else self.title

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 12, MLP 96, 17 or 18 tokens."""
        config_class = transformers.DeiTConfig if class_name.startswith("DeiT") else transformers.ViTConfig
        return random_example(class_name, config_class, **{**EXAMPLE_SIZES, **options})

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]."""
        return {"no biases": {"qkv_bias": False}}


def our_name(name: str) -> str:
    """The name that a weight of a ViT has in ours."""
    for prefix in ("vit.", "deit.", "ijepa."):
        if name.startswith(prefix):
            return "snp_vit." + name.removeprefix(prefix)
    return "classifier." + name.removeprefix("cls_classifier.") if name.startswith("cls_classifier.") else name


def native_config(
    config: SNPViTConfig, family: Family, native_class: type[PreTrainedModel], sizes: NativeSizes, **needed: Any
) -> PretrainedConfig:
    """See [`Family.native_config`]: that of a class of the form of a ViT.

    Args:
        config, native_class, sizes:
            As there.
        family ([`Family`]):
            Of the class.
        needed:
            Options that the class has in another way than a ViT.
    """
    options = {
        "use_cls_token": True,
        "num_register_tokens": 0,
        "use_distillation_token": False,
        "use_pre_layernorm": False,
        "use_gated_mlp": False,
        "classifier_pooling": "cls",
        "interpolate_pos_encoding": False,
        "interpolation_antialias": False,
        "apply_layernorm": True,
    }
    require(config, family, **{**options, **needed})
    config_class = native_class.config_class
    return config_class(**{**native_fields(config, config_class), **asdict(sizes)})

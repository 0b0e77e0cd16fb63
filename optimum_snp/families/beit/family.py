"""BEiT."""

from dataclasses import asdict
from typing import Any, ClassVar

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
from .weights import TABLE, convert_weights, native_weights


# Of the source config: under another name or folded into weights here, or read by pretraining and segmentation.
_UNREAD_FIELDS = (
    "use_mask_token",
    "use_absolute_position_embeddings",
    "use_shared_relative_position_bias",
    "layer_scale_init_value",
    "use_mean_pooling",
    "vocab_size",
    "pool_scales",
    "use_auxiliary_head",
    "auxiliary_loss_weight",
    "auxiliary_channels",
    "auxiliary_num_convs",
    "auxiliary_concat_input",
    "semantic_loss_ignore_index",
    "add_fpn",
    "stage_names",
)
_PRETRAINING = "it is for pretraining by masked images, and its head predicts the patches that are missing. "
_SEGMENTATION = "its decoder reads feature maps of blocks by their places. "


class BeitFamily(Family):
    """A ViT with biases by relative position, layer scale, keys without bias, and the mean of the patches pooled.

    A table of biases that all blocks share becomes one for every block, since blocks keep different heads.

    Attributes:
        renamed (`dict[str, str]`): Parts of the names of weights there, with what they are here.
        shared_table (`str`): The name there of the table that all blocks share.
    """

    title = "BEiT"
    model_types = ("beit",)
    source_classes = {
        "BeitModel": SNPViTModel,
        "BeitForImageClassification": SNPViTForImageClassification,
        "BeitBackbone": SNPViTBackbone,
    }
    short_names = {f"beit-{size}": f"microsoft/beit-{size}-patch16-224" for size in ("base", "large")}
    limits = (
        "the width of a `BeitBackbone` and, with `use_mean_pooling`, of a `BeitModel` within a budget, since their "
        "tokens are an output without a norm"
    )
    refused = {
        "BeitForMaskedImageModeling": f"{_PRETRAINING}Prune a BeitModel.",
        "BeitForSemanticSegmentation": f"{_SEGMENTATION}Prune a BeitBackbone.",
    }

    native_version = "5.9"

    renamed: ClassVar[dict[str, str]] = {
        f"relative_position_bias.{TABLE}": "attention.relative_position_bias.table",
        "pooler.layernorm.": "layernorm.",
    }
    shared_table: ClassVar[str] = f"shared_position_bias.{TABLE}"

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        config = source.config
        _check_square(config)
        fields = {name: value for name, value in config_fields(source).items() if name not in _UNREAD_FIELDS}
        target = self.target_class(source)
        is_bare, is_backbone = target is SNPViTModel, target is SNPViTBackbone
        if is_backbone and config.add_fpn:
            raise ValueError(
                "add_fpn is True: the feature maps then pass layers for a segmentation decoder, which a pruned "
                "backbone has not. Set it to False, and put those layers behind the pruned backbone."
            )
        has_pooler = is_bare and source.pooler is not None
        pools_mean = config.use_mean_pooling
        fields |= {
            **blocks_with_head_dim(source, config.intermediate_size),
            "key_bias": False,
            "use_position_embeddings": config.use_absolute_position_embeddings,
            "use_relative_position_bias": config.use_relative_position_bias
            or config.use_shared_relative_position_bias,
            "interpolate_pos_encoding": True,
            "use_pooler": has_pooler,
            "pooler_type": "mean" if pools_mean else "cls",
            "classifier_pooling": "mean" if pools_mean else "cls",
            "norm_after_pooling": pools_mean and not is_backbone and (has_pooler or not is_bare),
            "use_final_layernorm": not is_backbone and (has_pooler or not is_bare or not pools_mean),
            "apply_layernorm": False,
        }
        if not is_backbone:
            fields |= {"out_features": None, "out_indices": None}
        return SNPViTConfig(**fields)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; layer scale goes into what it scales."""
        source_prefix = f"{config.model_type.replace('-', '_')}."
        if model_class is SNPViTBackbone:  # it has a final norm, but what it puts out passes none
            weights = {name: weight for name, weight in weights.items() if not name.startswith("beit.layernorm.")}
        return convert_weights(
            weights,
            prefix="" if model_class is SNPViTModel else "snp_vit.",
            source_prefix=source_prefix,
            parts=self.renamed,
            shared_table=self.shared_table,
        )

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]: without layer scale, with a table in every block.

        Stages of a backbone are counted by the blocks that are left.
        """
        is_backbone, is_bare = native_class is transformers.BeitBackbone, native_class is transformers.BeitModel
        require(
            config,
            self,
            use_cls_token=True,
            num_register_tokens=0,
            use_distillation_token=False,
            use_pre_layernorm=False,
            use_gated_mlp=False,
            interpolate_pos_encoding=True,
            interpolation_antialias=False,
            apply_layernorm=False,
            use_pooler=is_bare,
        )
        if is_backbone:
            require_whole_stages(config, self)
        pools_mean = config.norm_after_pooling or is_backbone  # a backbone has no use for the norm that is else there
        pooled = "mean" if pools_mean else "cls"
        if not is_backbone:
            require(config, self, **{"pooler_type" if is_bare else "classifier_pooling": pooled})
        config_class = native_class.config_class
        fields = native_fields(config, config_class) | {
            **asdict(sizes),
            "use_mask_token": False,
            "use_absolute_position_embeddings": config.use_position_embeddings,
            "use_relative_position_bias": config.use_relative_position_bias,
            "use_shared_relative_position_bias": False,
            "layer_scale_init_value": 0.0,
            "use_mean_pooling": pools_mean,
        }
        return config_class(**fields)

    def native_weights(
        self, weights: Weights, native_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.native_weights`]; a norm behind the pooling belongs to the pooler there."""
        is_bare = native_class is transformers.BeitModel
        return native_weights(
            weights,
            prefix="" if is_bare else "snp_vit.",
            source_prefix="" if is_bare else f"{native_class.base_model_prefix}.",
            pools_mean=config.use_mean_pooling,
        )

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 12, MLP 96, 16 patches, a table in every block."""
        config_class = getattr(transformers, class_name).config_class
        return random_example(class_name, config_class, **{**self.example_options(class_name), **options})

    def example_options(self, class_name: str) -> dict[str, Any]:
        """What the config of [`Family.example`] has."""
        return {
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "patch_size": 8,
            "layer_scale_init_value": 0.5,
            "drop_path_rate": 0.0,
            "use_relative_position_bias": True,
        }

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]: one table for all, with absolute positions, and the class token read."""
        if class_name.endswith("Backbone"):
            return {"tokens": {"out_features": ["stem", "stage2"], "reshape_hidden_states": False}}
        shared = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}
        return {
            "shared table": {**shared, "use_absolute_position_embeddings": True, "use_mask_token": True},
            "class token": {"use_mean_pooling": False, "layer_scale_init_value": 0.0},
        }


def _check_square(config: PretrainedConfig) -> None:
    for name in ("image_size", "patch_size"):
        size = getattr(config, name)
        if not isinstance(size, int):
            raise ValueError(
                f"{name} is {size!r}. BEiT reads its position embeddings and its table of relative positions as "
                "squares, so only one number, for squares, can be converted."
            )

"""The Swin Transformer V2."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from ..example import random_example
from ..family import Family, Weights, config_fields
from .weights import DISTANCES, convert_weights


class SwinV2Family(Family):
    """A Swin with norms behind its branches, cosine attention, and biases from a small network of relative positions.

    What that network gives for the windows of a model is a table, as Swin has it, and a table it becomes.
    """

    title = "SwinV2"
    model_types = ("swinv2",)
    source_classes = {
        "Swinv2Model": SNPSwinModel,
        "Swinv2ForImageClassification": SNPSwinForImageClassification,
        "Swinv2Backbone": SNPSwinBackbone,
    }
    short_names = {
        f"swinv2-{size}": f"microsoft/swinv2-{size}-patch4-window8-256" for size in ("tiny", "small", "base")
    }
    parts = ("values", "MLP", "heads", "blocks")
    limits = "queries and keys, which attention divides by their lengths; widths, since norms write the streams"

    def convert_config(self, source: PreTrainedModel) -> SNPSwinConfig:
        """See [`Family.convert_config`].

        Raises:
            ValueError: If the classes of transformers cannot run such a model.
        """
        config = source.config
        if 1 in (config.pretrained_window_sizes or ()):
            raise ValueError(
                f"pretrained_window_sizes is {config.pretrained_window_sizes}, but distances are divided by each of "
                "them less 1. Set it to the windows of pretraining, or to 0 where they are those of the model."
            )
        if config.use_absolute_embeddings:
            raise ValueError(
                "use_absolute_embeddings is True, but the Swinv2 classes of transformers have one position too many "
                "then and cannot run. Set it to False."
            )
        fields = {name: value for name, value in config_fields(source).items() if name != "pretrained_window_sizes"}
        is_bare = self.target_class(source) is SNPSwinModel
        stages = source.base_model.encoder.layers
        # Small maps have smaller windows, which are not shifted.
        return SNPSwinConfig(
            **fields,
            swin_version=2,
            window_sizes=[stage.blocks[0].window_size for stage in stages],
            block_configs=[[_sizes(block) for block in stage.blocks] for stage in stages],
            use_pooler=not is_bare or source.pooler is not None,
        )

    def source_weights(self, source: PreTrainedModel) -> Weights:
        """See [`Family.source_weights`]; with the distances within windows, which are computed, not saved."""
        distances = {name: buffer for name, buffer in source.named_buffers() if name.endswith(DISTANCES)}
        return {**super().source_weights(source), **distances}

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; biases of relative positions become tables."""
        return convert_weights(weights, "" if model_class is SNPSwinModel else "snp_swin.")

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 2 + 2 blocks, 1 and 2 heads of 12, MLP 48 and 96.

        8 x 8 tokens, then 4 x 4: the windows of 9 fit neither, so that both stages pad.
        """
        sizes = {"embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2], "window_size": 3, "patch_size": 4}
        sizes["pretrained_window_sizes"] = [0, 0]
        return random_example(class_name, transformers.Swinv2Config, **{**sizes, **options})

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]: windows of another size in pretraining, and larger ones than the second map."""
        if class_name == "Swinv2Backbone":
            return {"all maps": {"out_features": ["stem", "stage1", "stage2"]}}
        return {"larger windows": {"window_size": 5, "pretrained_window_sizes": [3, 2], "qkv_bias": False}}


def _sizes(block: Any) -> dict[str, Any]:
    """The entry of `block_configs` for a block of transformers."""
    attention = block.attention.self
    return {
        "num_attention_heads": attention.num_attention_heads,
        "qk_head_dim": attention.attention_head_size,
        "v_head_dim": attention.attention_head_size,
        "intermediate_size": block.intermediate.dense.out_features,
        "attention_scale": 1.0,
        "shift_size": block.shift_size,
    }

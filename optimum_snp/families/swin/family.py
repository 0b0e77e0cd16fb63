"""The Swin Transformer of the first version."""

from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ...models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from ..example import random_example
from ..family import Family, Weights, config_fields, rename_parts


# Parts of the names of weights that are other in ours.
_RENAMED = {"encoder.layers.": "stages.", "relative_position_bias.relative_": "relative_"}


class SwinFamily(Family):
    """Attention in windows, stages of growing width."""

    title = "Swin"
    model_types = ("swin",)
    source_classes = {
        "SwinModel": SNPSwinModel,
        "SwinForImageClassification": SNPSwinForImageClassification,
        "SwinBackbone": SNPSwinBackbone,
    }
    short_names = {
        "swin-tiny": "microsoft/swin-tiny-patch4-window7-224",
        "swin-small": "microsoft/swin-small-patch4-window7-224",
        "swin-base": "microsoft/swin-base-patch4-window7-224",
    }

    def convert_config(self, source: PreTrainedModel) -> SNPSwinConfig:
        """See [`Family.convert_config`]."""
        is_bare = self.source_classes[type(source).__name__] is SNPSwinModel
        # Only a bare model may lack the pooler; it has no weights, so a backbone's base model may have it as well.
        return SNPSwinConfig(**config_fields(source), use_pooler=not is_bare or source.pooler is not None)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]."""
        # Only masked-image pretraining reads the mask token.
        return {_our_name(name): weight for name, weight in weights.items() if not name.endswith("mask_token")}

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 2 + 3 blocks, 1 and 2 heads of 12, MLP 48 and 96.

        8 x 8 tokens, then 4 x 4: the windows of 9 fit neither, so that both stages pad.
        """
        sizes = {"embed_dim": 12, "depths": [2, 3], "num_heads": [1, 2], "window_size": 3, "patch_size": 4}
        return random_example(class_name, transformers.SwinConfig, **{**sizes, **options})

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]."""
        if class_name == "SwinBackbone":
            return {"all maps": {"out_features": ["stem", "stage1", "stage2"]}}
        return {"absolute positions": {"use_absolute_embeddings": True, "qkv_bias": False}}


def _our_name(name: str) -> str:
    name = rename_parts(name, _RENAMED)
    return "snp_swin." + name.removeprefix("swin.") if name.startswith("swin.") else name

"""ViT-MAE: its encoder, which here reads all patches of an image."""

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from ...models import SNPViTConfig, SNPViTModel
from ..example import random_example
from ..family import Family, NativeSizes, Weights, blocks_with_head_dim, config_fields
from ..vit.family import EXAMPLE_SIZES, native_config, our_name


class ViTMAEFamily(Family):
    """The network of a ViT. In pretraining most patches are hidden; the encoder that is left behind sees them all.

    So what is converted is the model with `mask_ratio=0`, its patches in their order.
    """

    title = "ViT-MAE"
    model_types = ("vit_mae",)
    source_classes = {"ViTMAEModel": SNPViTModel}
    limits = "the decoder, which goes; the encoder reads all patches"
    refused = {
        "ViTMAEForPreTraining": "its decoder is of use in pretraining only. Prune the encoder, a ViTMAEModel: "
        "SNPPruner.from_pretrained(ViTMAEModel.from_pretrained(name))."
    }
    native_version = "5.9"

    def convert_config(self, source: PreTrainedModel) -> SNPViTConfig:
        """See [`Family.convert_config`]."""
        fields = {**config_fields(source), **blocks_with_head_dim(source, source.config.intermediate_size)}
        for name in ("mask_ratio", "norm_pix_loss"):
            fields.pop(name, None)
        fields = {name: value for name, value in fields.items() if not name.startswith("decoder_")}
        return SNPViTConfig(**{**fields, "use_pooler": False})

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]."""
        return {our_name(name): weight for name, weight in weights.items()}

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]; no patch is hidden."""
        native = native_config(config, self, native_class, sizes, use_pooler=False)
        native.mask_ratio = 0.0
        return native

    def source_outputs(self, source: PreTrainedModel, pixel_values: torch.Tensor, **options: Any) -> ModelOutput:
        """See [`Family.source_outputs`]: with noise that shuffles no patches, and without telling which are hidden."""
        patch_size = source.config.patch_size
        num_patches = (pixel_values.shape[2] // patch_size) * (pixel_values.shape[3] // patch_size)
        noise = torch.arange(num_patches, device=pixel_values.device).expand(len(pixel_values), -1)
        outputs = source(pixel_values, noise=noise, **options)
        return BaseModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: as of the ViT, with no patch hidden."""
        return random_example(class_name, transformers.ViTMAEConfig, **{"mask_ratio": 0.0, **EXAMPLE_SIZES, **options})

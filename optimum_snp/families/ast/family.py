"""AST: a DeiT that reads spectrograms."""

from typing import Any

import torch
import transformers
from transformers import AutoFeatureExtractor, PretrainedConfig, PreTrainedModel

from ...models import SNPASTConfig, SNPASTForAudioClassification, SNPASTModel
from ..example import random_example
from ..family import Family, Weights, blocks_with_head_dim, config_fields
from ..vit.family import EXAMPLE_SIZES


# Of the source config: under another name here, or of images, which no AST reads it for.
_UNREAD_FIELDS = ("num_mel_bins", "max_length", "frequency_stride", "time_stride", "image_size", "num_channels")
# Parts of the names of weights there, with what they are here.
_RENAMED = {"classifier.layernorm.": "classifier_norm.", "classifier.dense.": "classifier."}


class ASTFamily(Family):
    """Class and distillation token before patches of a spectrogram, which overlap; a norm before the classifier."""

    title = "AST"
    model_types = ("audio-spectrogram-transformer",)
    source_classes = {"ASTModel": SNPASTModel, "ASTForAudioClassification": SNPASTForAudioClassification}
    short_names = {"ast-audioset": "MIT/ast-finetuned-audioset-10-10-0.4593"}
    image_processor_class = AutoFeatureExtractor
    not_native = "its classifier there has no place for what a narrower stream needs, and none is written without"
    limits = "the norm before the classifier, which keeps its size"

    def convert_config(self, source: PreTrainedModel) -> SNPASTConfig:
        """See [`Family.convert_config`]."""
        config = source.config
        fields = {name: value for name, value in config_fields(source).items() if name not in _UNREAD_FIELDS}
        fields |= {
            **blocks_with_head_dim(source, config.intermediate_size),
            "image_size": [config.num_mel_bins, config.max_length],
            "patch_stride": [config.frequency_stride, config.time_stride],
        }
        return SNPASTConfig(**fields)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]."""
        prefix = "audio_spectrogram_transformer."
        ours = {}
        for name, weight in weights.items():
            for theirs, our_name in _RENAMED.items():
                name = name.replace(theirs, our_name)
            ours[f"snp_vit.{name.removeprefix(prefix)}" if name.startswith(prefix) else name] = weight
        if model_class is SNPASTForAudioClassification:  # the layer before the norm changes nothing yet
            norm = ours["classifier_norm.weight"]
            # Trained where that norm is.
            options = {"dtype": norm.dtype, "device": norm.device, "requires_grad": norm.requires_grad}
            ours["classifier_projection.weight"] = torch.eye(len(norm), **options)
            ours["classifier_projection.bias"] = torch.zeros(len(norm), **options)
        return ours

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: as of the DeiT, for spectrograms of 32 frames and 24 bins, in 5 x 5 patches."""
        sizes = {"max_length": 32, "num_mel_bins": 24, "time_stride": 6, "frequency_stride": 4}
        return random_example(class_name, transformers.ASTConfig, **{**EXAMPLE_SIZES, **sizes, **options})

"""What models read: images, or of an audio spectrogram transformer (AST) the spectrograms of sounds."""

from collections.abc import Mapping

import torch
from transformers import PretrainedConfig

from .description import as_pair


IMAGES, SPECTROGRAMS = "pixel_values", "input_values"


def reads_sounds(config: PretrainedConfig) -> bool:
    """Whether a model reads sounds, by its config, ours or that of transformers."""
    return getattr(config, "num_mel_bins", None) is not None


def input_name(config: PretrainedConfig) -> str:
    """What a model calls its input."""
    return SPECTROGRAMS if reads_sounds(config) else IMAGES


def input_shape(config: PretrainedConfig) -> tuple[int, ...]:
    """The shape of one input: channels, height and width of an image, or frames and mel bins of a sound."""
    if reads_sounds(config):
        frames = config.num_frames if hasattr(config, "num_frames") else config.max_length  # as transformers has it
        return (frames, config.num_mel_bins)
    return (config.num_channels, *as_pair(config.image_size))


def model_inputs(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What a model reads of a batch, or an item, of images or sounds; beside it there may be labels."""
    return batch[IMAGES] if IMAGES in batch else batch[SPECTROGRAMS]

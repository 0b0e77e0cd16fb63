"""Images of noise, where any will do: for latency, and to compare an export with."""

import torch
from transformers import PreTrainedModel

from .structure import input_shape


def random_images(model: PreTrainedModel, batch_size: int) -> torch.Tensor:
    """Images of noise of the size that a model is configured for, or spectrograms, `[batch, *input_shape]`."""
    return torch.randn(batch_size, *input_shape(model.config), device=model.device, dtype=model.dtype)

"""Images of noise, where any will do: for latency, and to compare an export with."""

import torch
from transformers import PreTrainedModel

from .structure import as_pair


def random_images(model: PreTrainedModel, batch_size: int) -> torch.Tensor:
    """Images of noise of the size that a model is configured for, `[batch, channels, height, width]`."""
    config = model.config
    height, width = as_pair(config.image_size)
    return torch.randn(batch_size, config.num_channels, height, width, device=model.device, dtype=model.dtype)

"""Attention maps as pictures show them: how much attention every place of the image gets from one head."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class AttentionMaps:
    """The maps of one block.

    Attributes:
        title (`str`): Which block, and whose attention it is.
        maps (`np.ndarray` of shape `[images, heads, rows, columns]`): Shares of attention.
    """

    title: str
    maps: np.ndarray


@torch.inference_mode()
def attention_maps(model: PreTrainedModel, pixel_values: torch.Tensor) -> list[AttentionMaps]:
    """The attention maps of a middle and of the last block that gives them away.

    Of a ViT it is what the class token attends to. A Swin has no such token: of each window it is the mean over all
    that attend, put back to its place in the image.

    Args:
        model (`PreTrainedModel`):
            A model of our architecture.
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
            Images of the configured size.
    """
    base_model = model.base_model
    attentions = base_model(pixel_values.to(model.device), output_attentions=True, return_dict=True).attentions
    blocks = sorted({(len(attentions) - 1) // 2, len(attentions) - 1})
    read = _class_token_maps if hasattr(base_model, "layers") else _window_maps
    return [read(base_model, block, attentions[block].float().cpu()) for block in blocks]


def _class_token_maps(base_model: PreTrainedModel, block: int, probabilities: torch.Tensor) -> AttentionMaps:
    embeddings = base_model.embeddings
    maps = probabilities[:, :, 0, embeddings.num_extra_tokens :].unflatten(-1, embeddings.grid)
    return AttentionMaps(f"attention of the class token in block {block}", maps.numpy())


def _window_maps(base_model: PreTrainedModel, stage: int, probabilities: torch.Tensor) -> AttentionMaps:
    module = base_model.stages[stage]
    windows = module.windows[str(module.blocks[-1].shift_size)]
    received = probabilities.mean(dim=-2)  # [images * windows, heads, area]
    by_window = received.unflatten(0, (-1, windows.tokens.shape[0] // received.shape[-1]))
    places = by_window.transpose(1, 2).flatten(2).index_select(2, windows.places.cpu())
    maps = places.unflatten(-1, windows.grid)
    return AttentionMaps(f"mean attention within the windows of the last block of stage {stage}", maps.numpy())

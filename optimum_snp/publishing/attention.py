"""Attention maps as pictures show them: how much attention every place of the image gets from one head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from ..record import ModelRecord
from ..structure import block_sizes, block_stages


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
def attention_maps(
    model: PreTrainedModel, pixel_values: torch.Tensor, blocks: Sequence[int] | None = None
) -> list[AttentionMaps]:
    """The attention maps of a middle and of the last block that gives them away, or of `blocks`.

    Of a ViT it is what the class token attends to. A Swin has no such token: of each window it is the mean over all
    that attend, put back to its place in the image.

    Args:
        model (`PreTrainedModel`):
            A model of our architecture.
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
            Images of the configured size.
        blocks (`Sequence[int]`, *optional*):
            Blocks of a ViT; stages of a Swin, whose last blocks give their maps away.
    """
    base_model = model.base_model
    attentions = base_model(pixel_values.to(model.device), output_attentions=True, return_dict=True).attentions
    blocks = sorted({(len(attentions) - 1) // 2, len(attentions) - 1}) if blocks is None else blocks
    read = _class_token_maps if hasattr(base_model, "layers") else _window_maps
    return [read(base_model, block, attentions[block].float().cpu()) for block in blocks]


def heads_of_maps(record: ModelRecord) -> dict[int, list[int]]:
    """The heads of every block that gives its maps away, in the order of the model's attentions.

    Blocks and heads have their numbers in the dense model, so that maps of models of one origin can be compared. The
    maps of a Swin are those of the last blocks of its stages; they are numbered by stage.
    """
    plan, config = record.plan, record.model.config
    if plan is None:
        heads = [(index, list(range(block["num_attention_heads"]))) for index, block in enumerate(block_sizes(config))]
    else:
        heads = [(index, block.heads) for index, block in enumerate(plan.history) if block.after is not None]
    if hasattr(record.model.base_model, "layers"):
        return dict(heads)
    return dict(zip(block_stages(config), (numbers for _, numbers in heads), strict=True))


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

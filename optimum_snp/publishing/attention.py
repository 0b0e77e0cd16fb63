"""Attention maps as pictures show them: how much attention every place of the image gets from one head."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from ..record import ModelRecord
from ..structure import AttentionMaps, architecture_of, block_sizes


@torch.inference_mode()
def attention_maps(
    model: PreTrainedModel, pixel_values: torch.Tensor, positions: Sequence[int] | None = None
) -> list[AttentionMaps]:
    """The attention maps of a middle and of the last block that gives them away, or of those at `positions`.

    Args:
        model (`PreTrainedModel`):
            A model of our architecture.
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
            Images of the configured size.
        positions (`Sequence[int]`, *optional*):
            Positions among the blocks that give their maps away: all of a ViT, the last of every stage of a Swin.
    """
    base_model, architecture = model.base_model, architecture_of(model.config)
    attentions = model(pixel_values.to(model.device), output_attentions=True, return_dict=True).attentions
    if positions is None:
        positions = sorted({(len(attentions) - 1) // 2, len(attentions) - 1})
    return [
        architecture.attention_maps(base_model, position, attentions[position].float().cpu()) for position in positions
    ]


def heads_of_maps(record: ModelRecord) -> dict[int, list[int]]:
    """The heads of every block that gives its maps away, in the order of the model's attentions.

    Blocks and heads have their numbers in the dense model, so that maps of models of one origin can be compared. Where
    only the last block of every stage gives its maps away, they are numbered by stage.
    """
    plan, config = record.plan, record.model.config
    if plan is None:
        heads = [(index, list(range(block["num_attention_heads"]))) for index, block in enumerate(block_sizes(config))]
    else:
        heads = [(index, block.heads) for index, block in enumerate(plan.history) if block.after is not None]
    positions = architecture_of(config).blocks_with_maps(config)
    if len(positions) == len(heads):
        return dict(heads)
    return {stage: heads[position][1] for stage, position in enumerate(positions)}

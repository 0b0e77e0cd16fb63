"""What a model costs: multiply-accumulates for one image, and parameters.

The published "GFLOPs" of ViTs count multiply-accumulates (MACs), and so do we. Counted are all matrix products, those
of attention and of the search for tokens to merge included; norms, activations, softmax and additions are left out,
as is usual.
"""

import torch
from torch import nn
from transformers import PretrainedConfig

from ..models import SNPModel
from . import describe


def count_parameters(model: nn.Module) -> int:
    """The number of weights of a model, trainable or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: SNPModel) -> int:
    """Multiply-accumulates of one forward pass over one image of the configured size.

    Args:
        model:
            A model of our architecture; it may live on the meta device.
    """
    structure = describe(model)
    macs = structure.further_macs
    macs += sum(rows * model.get_submodule(name).weight.numel() for name, rows in structure.linear_rows.items())
    for block in structure.blocks:
        pairs = block.num_maps * block.map_tokens**2
        macs += pairs * block.num_attention_heads * (block.qk_head_dim + block.v_head_dim)
        compared = block.num_attention_heads * block.qk_head_dim + structure.streams[block.stream].width
        macs += block.matching_pairs * compared
    return macs


def skeleton(model_class: type, config: PretrainedConfig) -> SNPModel:
    """A model without memory for its weights, to count what it costs."""
    with torch.device("meta"):
        return model_class(config)

"""What a model costs: multiply-accumulates for one image, and parameters.

The published "GFLOPs" of ViTs count multiply-accumulates (MACs), and so do we. Counted are all matrix products, those
of attention included; norms, activations, softmax and additions are left out, as is usual.
"""

import torch
from torch import nn

from ..models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel


def count_parameters(model: nn.Module) -> int:
    """The number of weights of a model, trainable or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: SNPViTModel | SNPViTForImageClassification) -> int:
    """Multiply-accumulates of one forward pass over one image of the configured size.

    Args:
        model:
            A model of our architecture; it may live on the meta device.
    """
    base_model = model.base_model
    embeddings = base_model.embeddings
    num_patches = embeddings.grid[0] * embeddings.grid[1]
    num_tokens = num_patches + embeddings.num_extra_tokens

    macs = num_patches * embeddings.patch_embeddings.projection.weight.numel()
    for layer in base_model.layers:
        attention = layer.attention
        macs += num_tokens * _linear_weights(layer)
        macs += num_tokens**2 * attention.num_attention_heads * (attention.qk_head_dim + attention.v_head_dim)
    # Pooler and classifiers read one token each.
    heads = [base_model.pooler]
    if model is not base_model:
        heads += [model.classifier, model.distillation_classifier]
    return macs + sum(_linear_weights(head) for head in heads if head is not None)


def skeleton(model_class: type, config: SNPViTConfig) -> SNPViTModel | SNPViTForImageClassification:
    """A model without memory for its weights, to count what it costs."""
    with torch.device("meta"):
        return model_class(config)


def _linear_weights(module: nn.Module) -> int:
    return sum(child.weight.numel() for child in module.modules() if isinstance(child, nn.Linear))

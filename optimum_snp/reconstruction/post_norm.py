"""What a layer is to put out so that the norm behind it adds what is missing to a residual stream (Swin V2).

A norm `g (z - mean) / deviation + b` stands between the layer and the stream, so what is missing of the stream is no
linear function of the layer's weights. To first order, a change of the layer's output `z` by `deviation * d / g`
changes what is added by `d`, but for the mean of `d / g` over the channels and its part along `z` itself, which every
norm takes away. So with `z` the dense output and `d` what is missing behind the norm, the target of the layer is

    z + deviation * g d / (g^2 + damping * mean(g^2))

in the place of `z + deviation * d / g`, in which a channel that the norm hardly passes on would move most of all. A
row counts by `1 / deviation^2`, by which the norm makes errors of it larger.

Source: our choice (docs/swin.md).
"""

import torch
from torch import nn


# Relative to the mean square of the scales; a channel of that scale makes up for half of what is missing. On a model
# trained on digits 0, 0.1 and 1 differ by little, and 1 is best more often than not (docs/swin.md).
DAMPING = 1.0


def target_before_norm(
    norm: nn.LayerNorm, output: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target of the layer before a norm, and how much each row counts.

    Args:
        norm (`nn.LayerNorm`):
            Of the dense network.
        output (`torch.Tensor` of shape `[images, tokens, channels]`):
            What the layer before it puts out there.
        wanted (`torch.Tensor` of the same shape):
            What the norm of the pruned network is to put out.

    Returns:
        `tuple`: `[images, tokens, channels]` and `[images, tokens]`.
    """
    variance = output.float().var(dim=-1, unbiased=False, keepdim=True) + norm.eps
    scale = norm.weight
    pull = scale / (scale.square() + DAMPING * scale.square().mean()).clamp_min(torch.finfo(scale.dtype).tiny)
    target = output + variance.sqrt() * pull * (wanted - norm(output))
    return target, 1 / variance.squeeze(-1)

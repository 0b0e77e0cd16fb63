"""The scores of all neurons of a model."""

from dataclasses import dataclass

import torch


@dataclass
class Scores:
    """One score per neuron; neurons with the least score are pruned first.

    Attributes:
        query_key (`list[torch.Tensor]`): Per block `[heads, qk_head_dim]`.
        value (`list[torch.Tensor]`): Per block `[heads, v_head_dim]`.
        mlp (`list[torch.Tensor]`): Per block `[intermediate_size]`.
        widths (`list[torch.Tensor]`): Per residual stream `[width]`.
    """

    query_key: list[torch.Tensor]
    value: list[torch.Tensor]
    mlp: list[torch.Tensor]
    widths: list[torch.Tensor]

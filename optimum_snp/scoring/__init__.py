"""One score per prunable neuron, from weights and calibration statistics."""

from dataclasses import dataclass

import torch

from ..calibration.statistics import CalibrationStatistics
from ..configuration import SNPConfig
from ..linear_algebra import parallel_map
from ..models import SNPModel
from ..structure import describe
from .attention_scores import query_key_scores
from .elimination import elimination_scores
from .redundancy import redundancy_scores
from .residual import residual_scores


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


def compute_scores(model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> Scores:
    """Computes the scores of SNP for all parts; for method "projection" the MLP's come from elimination.

    Args:
        model:
            The model that the statistics were collected on.
        statistics ([`CalibrationStatistics`]):
            Reduced over all processes.
        config ([`SNPConfig`]):
            Of which `method`, `num_singular_directions` and `singular_weighting` are read.

    Raises:
        ValueError: If the method needs second moments and the statistics have none.
    """
    if config.method != "snp" and not statistics.has_moments:
        raise ValueError(
            f"method {config.method!r} needs second moments of the activations, and these statistics have none. "
            "Call calibrate(dataset) again."
        )
    structure = describe(model)
    layers = [block.module for block in structure.blocks]
    query_key = [
        query_key_scores(block, config.num_singular_directions, config.singular_weighting)
        for block in statistics.blocks
    ]
    value = [
        redundancy_scores(layer.attention.v_proj.weight).view(layer.attention.num_attention_heads, -1)
        for layer in layers
    ]
    if config.method == "projection":
        mlp = parallel_map(
            lambda block: elimination_scores(block[0], block[1].mlp.fc2.weight),
            zip(statistics.blocks, layers, strict=True),
        )
    else:
        mlp = [redundancy_scores(layer.mlp.fc1.weight) for layer in layers]
    return Scores(query_key, value, mlp, [residual_scores(model, stream) for stream in structure.streams])


__all__ = ["Scores", "compute_scores"]

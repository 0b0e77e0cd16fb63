"""One score per prunable neuron, from weights and calibration statistics."""

from dataclasses import dataclass

import torch

from ..calibration.statistics import CalibrationStatistics
from ..configuration import SNPConfig
from ..linear_algebra import parallel_map
from ..models import SNPModel
from ..structure import describe
from .attention_scores import query_key_scores
from .blocks import block_scores
from .elimination import elimination_scores
from .heads import eliminate_heads, snp_head_scores
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
    check_moments(statistics, config)
    structure = describe(model)
    layers = [block.module for block in structure.blocks]
    query_key, value = _attention_scores(model, statistics, config)
    if config.method == "projection":
        mlp = parallel_map(
            lambda block: elimination_scores(block[0], block[1].mlp.fc2.weight),
            zip(statistics.blocks, layers, strict=True),
        )
    else:
        mlp = [redundancy_scores(layer.mlp.fc1.weight) for layer in layers]
    return Scores(query_key, value, mlp, [residual_scores(model, stream) for stream in structure.streams])


def compute_head_scores(model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> list[torch.Tensor]:
    """One score per head, per block `[heads]`; heads with the least score are removed first.

    Takes and raises what [`compute_scores`] does.
    """
    check_moments(statistics, config)
    if config.method == "snp":
        return [snp_head_scores(*scores) for scores in zip(*_attention_scores(model, statistics, config), strict=True)]

    attentions = [block.module.attention for block in describe(model).blocks]
    return parallel_map(
        lambda block: eliminate_heads(*block).scores(), zip(attentions, statistics.blocks, strict=True)
    )


def _attention_scores(
    model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """SNP's scores of query/key pairs and of values, per block `[heads, head_dim]`."""
    query_key = [
        query_key_scores(block, config.num_singular_directions, config.singular_weighting)
        for block in statistics.blocks
    ]
    attentions = [block.module.attention for block in describe(model).blocks]
    value = [
        redundancy_scores(attention.v_proj.weight).view(attention.num_attention_heads, -1) for attention in attentions
    ]
    return query_key, value


def check_moments(statistics: CalibrationStatistics, config: SNPConfig) -> None:
    """Tells whether the statistics have what the method needs.

    Raises:
        ValueError: If the method needs second moments and the statistics have none.
    """
    if config.method != "snp" and not statistics.has_moments:
        raise ValueError(
            f"method {config.method!r} needs second moments of the activations, and these statistics have none. "
            "Call calibrate(dataset) again."
        )


__all__ = [
    "Scores",
    "block_scores",
    "check_moments",
    "compute_head_scores",
    "compute_scores",
    "eliminate_heads",
    "snp_head_scores",
]

"""Pruning by any score of weight rows, through the plans of this library: random and magnitude are two of them."""

from collections.abc import Callable

import torch

from optimum_snp import PruningPlan, SNPConfig
from optimum_snp.models import SNPModel
from optimum_snp.planning.decide import make_plan
from optimum_snp.reshaping import reshape
from optimum_snp.scoring import Scores
from optimum_snp.scoring.residual import producer_rows
from optimum_snp.structure import describe


Shares = dict[str, float]
RowScore = Callable[[torch.Tensor], torch.Tensor]


def prune_by_scores(dense: SNPModel, shares: Shares, score: RowScore) -> SNPModel:
    """Keeps the neurons for which `score`, given the rows of weights `[neurons, inputs]`, is highest."""
    return reshape(dense, plan_by_scores(dense, shares, score))


@torch.no_grad()
def plan_by_scores(dense: SNPModel, shares: Shares, score: RowScore) -> PruningPlan:
    """The plan of [`prune_by_scores`]: query and key rows side by side, and all that writes a residual stream."""
    structure = describe(dense)
    layers = [block.module for block in structure.blocks]

    def per_head(layer: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return score(rows).view(layer.attention.num_attention_heads, -1)

    scores = Scores(
        query_key=[
            per_head(layer, torch.cat((layer.attention.q_proj.weight, layer.attention.k_proj.weight), dim=1))
            for layer in layers
        ],
        value=[per_head(layer, layer.attention.v_proj.weight) for layer in layers],
        mlp=[score(layer.mlp.fc1.weight) for layer in layers],
        widths=[score(torch.cat(producer_rows(dense, stream), dim=1)) for stream in structure.streams],
    )
    return make_plan(dense, scores, SNPConfig(method="snp", **shares))


def l2_norm(rows: torch.Tensor) -> torch.Tensor:
    """Magnitude: the L2 norm of every row."""
    return torch.linalg.vector_norm(rows, dim=1)

"""Pruning by any score of weight rows, through the plans of this library: random and magnitude are two of them."""

from collections.abc import Callable

import torch

from optimum_snp import PruningPlan, SNPConfig
from optimum_snp.methods import METHODS
from optimum_snp.models import SNPModel
from optimum_snp.planning.decide import make_plan
from optimum_snp.reshaping.select import weight_of
from optimum_snp.scoring import Scores, pair_scores
from optimum_snp.scoring.residual import producer_rows
from optimum_snp.structure import Block, describe


Shares = dict[str, float]
RowScore = Callable[[torch.Tensor], torch.Tensor]


def prune_by_scores(dense: SNPModel, shares: Shares, score: RowScore) -> SNPModel:
    """Keeps the neurons for which `score`, given the rows of weights `[neurons, inputs]`, is highest."""
    return METHODS["snp"].reshape(dense, plan_by_scores(dense, shares, score))


@torch.no_grad()
def plan_by_scores(dense: SNPModel, shares: Shares, score: RowScore) -> PruningPlan:
    """The plan of [`prune_by_scores`]: query and key rows side by side, and all that writes a residual stream."""
    structure = describe(dense)

    def score_layers(layers: list[str]) -> torch.Tensor:
        return score(torch.cat([weight_of(dense, layer) for layer in layers], dim=1))

    def score_heads(block: Block, layers: list[str]) -> torch.Tensor:
        return score_layers(layers).view(block.num_attention_heads, -1)

    def score_query_key(block: Block) -> torch.Tensor:
        neurons = score_heads(block, [block.query, block.key])
        return neurons if block.rotary_pairs is None else pair_scores(neurons)

    scores = Scores(
        query_key=[score_query_key(block) for block in structure.blocks],
        value=[score_heads(block, [block.value]) for block in structure.blocks],
        mlp=[score_layers(block.mlp_inputs) for block in structure.blocks],
        widths=[score(torch.cat(producer_rows(dense, stream), dim=1)) for stream in structure.streams],
    )
    return make_plan(dense, scores, SNPConfig(method="snp", **shares))


def l2_norm(rows: torch.Tensor) -> torch.Tensor:
    """Magnitude: the L2 norm of every row."""
    return torch.linalg.vector_norm(rows, dim=1)

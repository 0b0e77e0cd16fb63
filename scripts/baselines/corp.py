"""Closed-form peers, CORP (arXiv 2602.05243) and OB2C (arXiv 2608.17657): selection, then compensation by regression.

MLP neurons are ranked by variance (OB2C's DVBP), query/key pairs by the energy of their scores (CORP). What is kept
makes up for what goes by ridge regression: of the MLP's output, and of the scores. Means go into the bias. Values have
no rule there; given with_values, they are cut by NuWa's decomposition.
"""

import torch

from optimum_snp import PruningPlan
from optimum_snp.calibration import CalibrationStatistics
from optimum_snp.calibration.moments import covariance_and_mean
from optimum_snp.models import SNPModel
from optimum_snp.plan.sizes import Part
from optimum_snp.reshaping.refit import dense_layer, map_heads, refit_reader, refit_scores
from optimum_snp.reshaping.select import keep_rows, rows_of_heads, select_mlp
from optimum_snp.structure import describe

from . import nuwa
from .equal_sizes import build, double_weights, plan_of_sizes


PARTS = {Part.MLP, Part.QUERY_KEY}


def prune(
    dense: SNPModel, statistics: CalibrationStatistics, plan: PruningPlan, *, with_values: bool = False
) -> SNPModel:
    """The model of the plan's sizes."""
    variances = [covariance_and_mean(sums, "mlp_")[0].diagonal() for sums in statistics.blocks]
    energies = [
        sums["query_moment"].diagonal(dim1=1, dim2=2) * sums["key_moment"].diagonal(dim1=1, dim2=2)
        for sums in statistics.blocks
    ]
    plan = plan_of_sizes(dense, plan, mlp=variances, query_key=energies)
    weights = double_weights(dense)
    for block, block_plan, sums in zip(describe(dense).blocks, plan.blocks, statistics.blocks, strict=True):
        rows = rows_of_heads(block_plan.query_key, block.qk_head_dim)
        if len(rows) < block.num_attention_heads * block.qk_head_dim:
            keep_rows(weights, block.query, rows)
            keep_rows(weights, block.key, rows)
            moments = zip(sums["query_moment"], sums["key_moment"], block_plan.query_key, strict=True)
            map_heads(weights, block.query, torch.stack([refit_scores(*of_head) for of_head in moments]))
        if with_values:
            nuwa.cut_values(weights, block, block_plan.after["v_head_dim"])
        if len(block_plan.mlp) < block.intermediate_size:
            dense_down = dense_layer(weights, block.down)
            select_mlp(weights, block, block_plan.mlp)
            refit_reader(weights, block.down, *dense_down, sums, "mlp_", block_plan.mlp)
    return build(dense, plan, weights)

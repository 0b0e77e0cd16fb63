"""VBP, variance-based pruning (arXiv 2507.12988): MLP neurons of little variance go, their means into the bias.

    kept: the neurons with the largest variance of the activation;   b' = b + sum over those gone of w_m mean(a_m)

It has a rule for the MLP alone.
"""

import torch

from optimum_snp import PruningPlan
from optimum_snp.calibration import CalibrationStatistics
from optimum_snp.calibration.moments import covariance_and_mean
from optimum_snp.models import SNPModel
from optimum_snp.plan.sizes import Part
from optimum_snp.reshaping.select import select_mlp
from optimum_snp.structure import describe

from .equal_sizes import build, double_weights, plan_of_sizes


PARTS = {Part.MLP}


def prune(dense: SNPModel, statistics: CalibrationStatistics, plan: PruningPlan) -> SNPModel:
    """The model of the plan's sizes by VBP."""
    variances = [covariance_and_mean(sums, "mlp_")[0].diagonal() for sums in statistics.blocks]
    plan = plan_of_sizes(dense, plan, mlp=variances)
    weights = double_weights(dense)
    for block, block_plan, sums in zip(describe(dense).blocks, plan.blocks, statistics.blocks, strict=True):
        mean = covariance_and_mean(sums, "mlp_")[1]
        gone = torch.ones(block.intermediate_size, dtype=torch.float64)
        gone[block_plan.mlp] = 0
        weights[f"{block.down}.bias"] += weights[f"{block.down}.weight"] @ (gone * mean)
        select_mlp(weights, block, block_plan.mlp)
    return build(dense, plan, weights)

"""Method `"snp-refit"`: SNP's neurons are kept, then what reads them is fitted to the dense outputs.

Source: our choice (docs/one-shot.md).
"""

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums
from ..configuration import SNPConfig
from ..models import SNPModel
from ..plan import PruningPlan
from ..reshaping.refit import refit_block, refit_linear
from ..reshaping.select import Weights
from ..reshaping.width import reshape_stream
from ..structure import Block, describe
from .closed_form import add_biases, double_weights, head_scores, lose_heads
from .snp import SNP


class SNPRefit(SNP):
    """SNP's choice of neurons with least squares behind it."""

    name = "snp-refit"

    def score_heads(self, model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> list[torch.Tensor]:
        """See [`Method.score_heads`]."""
        self.check_statistics(statistics)
        return head_scores(model, statistics)

    def lose_heads(
        self, model: SNPModel, block: Block, sums: Sums, query_key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """See [`Method.lose_heads`]."""
        return lose_heads(model, block, sums)

    def _lose_query_key(self, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        # The refit follows the scores, the loss what the outputs make of them, so that one pair more can lose more by
        # a little. Sizes are chosen as if it did not.
        return super()._lose_query_key(sums, scores).flip(0).cummax(0).values.flip(0)

    def _map_of_scores(self, query_sum: torch.Tensor, key_sum: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        if not len(kept):
            return super()._map_of_scores(query_sum, key_sum, kept)
        identity = torch.eye(len(query_sum), dtype=torch.float64)
        zero = torch.zeros(len(query_sum), dtype=torch.float64)
        query_side, key_side = (
            identity[:, kept] @ refit_linear(identity, zero, moment, zero, kept, identity[:, kept])[0].T
            for moment in (query_sum, key_sum)
        )
        return query_side @ key_side.T

    def _new_weights(self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics) -> Weights:
        weights, structure = double_weights(model), describe(model)
        for block, block_plan, sums in zip(structure.blocks, plan.kept_blocks, statistics.blocks, strict=True):
            refit_block(weights, block, block_plan, sums)
        for stream, width in zip(structure.streams, plan.widths, strict=True):
            if width.after < width.before:
                selection = torch.eye(width.before, dtype=torch.float64)[:, width.kept]
                reshape_stream(weights, stream, selection, statistics, width.kept)
                add_biases(weights, structure)
        return weights

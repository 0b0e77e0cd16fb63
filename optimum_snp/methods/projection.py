"""Method `"projection"`: directions are kept instead of neurons, in closed form.

MLP neurons sit behind an activation, so they are selected, by backward elimination.

Source: our choice (docs/one-shot.md).
"""

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums, covariance_and_mean
from ..configuration import SNPConfig
from ..losses import by_rank, nested_errors, per_channel, tails
from ..models import SNPModel
from ..plan import PROJECTED, PruningPlan
from ..reshaping.project import project_block, project_output, project_scores
from ..reshaping.remove import remove
from ..reshaping.select import Weights, weight_of
from ..reshaping.width import axes_of_stream, reshape_stream, rotation
from ..scoring import elimination_pair_scores, elimination_scores
from ..structure import Block, Stream, describe
from .closed_form import add_biases, double_weights, head_scores, lose_heads
from .method import Method
from .snp import width_loss


class Projection(Method):
    """The closed form."""

    name = "projection"
    keeps_directions = True

    def score_heads(self, model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> list[torch.Tensor]:
        """See [`Method.score_heads`]."""
        self.check_statistics(statistics)
        return head_scores(model, statistics)

    def lose_heads(
        self, model: SNPModel, block: Block, sums: Sums, query_key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """See [`Method.lose_heads`]."""
        return lose_heads(model, block, sums)

    def kept_directions(
        self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None = None
    ) -> dict[int, torch.Tensor]:
        """See [`Method.kept_directions`]."""
        rest, statistics = remove(model, plan.heads, statistics, refits=self.refits)
        return {
            index: rotation(stream, statistics, width.after)
            for index, (stream, width) in enumerate(zip(describe(rest).streams, plan.widths, strict=True))
            if width.after < width.before
        }

    def _score_pairs(self, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        return elimination_pair_scores(sums)

    def _score_mlp(self, model: SNPModel, block: Block, sums: Sums) -> torch.Tensor:
        return elimination_scores(sums, weight_of(model, block.down))

    def _score_width(self, model: SNPModel, stream: Stream) -> torch.Tensor:
        return torch.zeros(stream.width, dtype=torch.float64)  # directions are kept, and no channel is one

    def _lose_query_key(self, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        """The kept directions of the scores are nested, and the queries along them uncorrelated: sums over those gone.

        Column by column, `X = query_map key_map^T`: direction `j` adds its query, and what outputs make of its key.
        """
        sensitivity = sums["query_sensitivity"] / sums["sensitivity_images"].clamp_min(1)
        query_moment = sums["query_moment"] / sums["query_num_tokens"].clamp_min(1)
        loss = torch.zeros(scores.shape[1] + 1, dtype=torch.float64)
        for head in range(len(scores)):
            query_map, key_map = project_scores(sums["query_moment"][head], sums["key_moment"][head], scores.shape[1])
            queries = (query_map.T @ query_moment[head] * query_map.T).sum(dim=1)
            answers = (key_map.T @ sensitivity[head] * key_map.T).sum(dim=1)
            loss += tails(queries * answers)
        return loss

    def _lose_value(self, sums: Sums, output: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        heads, head_dim = scores.shape
        covariance, _ = covariance_and_mean(sums, "context_")
        # In the basis of all directions of every head, kept directions are kept neurons.
        maps, readers_of_maps = [], []
        for head in range(heads):
            rows = slice(head * head_dim, (head + 1) * head_dim)
            values = project_output(covariance[rows, rows], output[:, rows], head_dim)
            maps.append(values)
            readers_of_maps.append(torch.linalg.solve(values, output[:, rows].T).T)
        basis, readers = torch.block_diag(*maps), torch.cat(readers_of_maps, dim=1)
        order = by_rank(-torch.arange(head_dim, dtype=torch.float64).expand(heads, -1))
        errors = nested_errors(basis.T @ covariance @ basis, readers, order, refit=True)
        return errors[::heads] * per_channel(sums, "attention_sensitivity", readers)

    def _lose_mlp(self, sums: Sums, down: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        errors = torch.cat((scores.sort(descending=True).values, scores.new_zeros(1)))  # as the elimination found them
        return errors * per_channel(sums, "mlp_sensitivity", down)

    def _lose_width(self, stream: Stream, statistics: CalibrationStatistics, scores: torch.Tensor) -> torch.Tensor:
        moments = {norm.name: covariance_and_mean(statistics.norms[norm.name])[0] for norm in stream.norms}
        axes = axes_of_stream(stream, statistics)
        return width_loss(stream, statistics, moments, axes, torch.arange(stream.width), refit=True)

    def _new_weights(self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics) -> Weights:
        weights, structure = double_weights(model), describe(model)
        for block, block_plan, sums in zip(structure.blocks, plan.kept_blocks, statistics.blocks, strict=True):
            project_block(weights, block, block_plan, sums)
        for stream, width in zip(structure.streams, plan.widths, strict=True):
            if width.kept == PROJECTED:
                reshape_stream(weights, stream, rotation(stream, statistics, width.after), statistics)
                add_biases(weights, structure)
        return weights

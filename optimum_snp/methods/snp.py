"""Method `"snp"`: neurons are kept by SNP's scores, and nothing else changes.

Source: SNP (arXiv 2404.11630).
"""

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums, covariance_and_mean
from ..configuration import SNPConfig
from ..linear_algebra import parallel_map
from ..losses import by_rank, nested_errors, per_channel
from ..models import SNPModel
from ..plan import PruningPlan
from ..reshaping.select import Weights, select_neurons, weight_of
from ..scoring import redundancy_scores, snp_head_scores
from ..structure import Block, Norm, Stream
from .method import Method, attention_scores


class SNP(Method):
    """The paper's method."""

    name = "snp"

    def score_heads(self, model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> list[torch.Tensor]:
        """See [`Method.score_heads`]."""
        return [snp_head_scores(*scores) for scores in zip(*attention_scores(model, statistics, config), strict=True)]

    def lose_heads(
        self, model: SNPModel, block: Block, sums: Sums, query_key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """See [`Method.lose_heads`]."""
        head_dim = value.shape[1]
        order = snp_head_scores(query_key, value).argsort(descending=True, stable=True)
        neurons = (order.unsqueeze(1) * head_dim + torch.arange(head_dim)).flatten()
        readers = weight_of(model, block.output).cpu()
        return nested_errors(_moment(sums, "context_"), readers, neurons, refit=False)[::head_dim]

    def _score_mlp(self, model: SNPModel, block: Block, sums: Sums) -> torch.Tensor:
        return redundancy_scores(torch.cat([weight_of(model, layer) for layer in block.mlp_inputs], dim=1))

    def _lose_query_key(self, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        """Pruning makes scores `Q X K^T` of `Q K^T`, as if the queries had changed by `Q (X - I)`."""
        head_dim = scores.shape[1]
        sensitivity = sums["query_sensitivity"] / sums["sensitivity_images"].clamp_min(1)
        query_moment = sums["query_moment"] / sums["query_num_tokens"].clamp_min(1)
        loss = torch.zeros(head_dim + 1, dtype=torch.float64)
        for head in range(len(scores)):
            order = scores[head].argsort(descending=True, stable=True)
            moments = sums["query_moment"][head], sums["key_moment"][head]
            for size in range(head_dim):
                change = self._map_of_scores(*moments, order[:size]) - torch.eye(head_dim, dtype=torch.float64)
                loss[size] += ((change.T @ query_moment[head] @ change) * sensitivity[head]).sum()
        return loss

    def _map_of_scores(self, query_sum: torch.Tensor, key_sum: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """`X` when the pairs `kept` stay, `[head_dim, head_dim]`."""
        identity = torch.eye(len(query_sum), dtype=torch.float64)
        return identity[:, kept] @ identity[kept]

    def _lose_value(self, sums: Sums, output: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        errors = nested_errors(self._moment(sums, "context_"), output, by_rank(scores), refit=self.refits)
        return errors[:: len(scores)] * per_channel(sums, "attention_sensitivity", output)

    def _lose_mlp(self, sums: Sums, down: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        order = scores.argsort(descending=True, stable=True)
        errors = nested_errors(self._moment(sums, "mlp_"), down, order, refit=self.refits)
        return errors * per_channel(sums, "mlp_sensitivity", down)

    def _lose_width(self, stream: Stream, statistics: CalibrationStatistics, scores: torch.Tensor) -> torch.Tensor:
        basis = torch.eye(stream.width, dtype=torch.float64)
        order = scores.argsort(descending=True, stable=True)
        moments = {norm.name: self._moment(statistics.norms[norm.name]) for norm in stream.norms}
        return width_loss(stream, statistics, moments, basis, order, refit=self.refits)

    def _moment(self, sums: Sums, prefix: str = "") -> torch.Tensor:
        """Of what counts as an error: with a refit the covariance, since biases take the means."""
        return covariance_and_mean(sums, prefix)[0] if self.refits else _moment(sums, prefix)

    def _new_weights(self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None) -> Weights:
        return select_neurons(model, plan)


def width_loss(
    stream: Stream,
    statistics: CalibrationStatistics,
    moments: dict[str, torch.Tensor],
    basis: torch.Tensor,
    order: torch.Tensor,
    *,
    refit: bool,
) -> torch.Tensor:
    """What the readers of a stream lose when only some directions are kept, `[width + 1]`.

    Args:
        stream ([`Stream`]):
            The stream.
        statistics ([`CalibrationStatistics`]):
            With sensitivities.
        moments (`dict[str, torch.Tensor]`):
            Of the rows that the readers of every norm get, by the norm's name.
        basis (`torch.Tensor` of shape `[width, width]`):
            The directions, as columns.
        order (`torch.Tensor` of shape `[width]`):
            Directions, kept first first.
        refit (`bool`):
            Whether the readers are refitted.
    """

    def loss_behind(norm: Norm) -> torch.Tensor:
        sums = statistics.norms[norm.name]
        repeated = torch.block_diag(*[basis] * norm.chunks)
        moment = repeated.T @ moments[norm.name] @ repeated
        # Of the vectors side by side, the same channel goes in all.
        rows = (order.unsqueeze(1) + stream.width * torch.arange(norm.chunks)).flatten()
        errors = nested_errors(moment, None, rows, refit=refit)
        sensitivity = sums["sensitivity"] / sums["sensitivity_images"].clamp_min(1) / len(moment)
        return errors[:: norm.chunks] * sensitivity

    nothing = torch.zeros(stream.width + 1, dtype=torch.float64)  # where no norm reads the stream
    return sum(parallel_map(loss_behind, stream.norms), nothing)


def _moment(sums: Sums, prefix: str) -> torch.Tensor:
    return sums[f"{prefix}moment"] / sums[f"{prefix}num_tokens"].clamp_min(1)

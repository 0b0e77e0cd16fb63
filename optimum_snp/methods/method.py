"""What a method of pruning is: how it ranks neurons, what every size of a part loses, and the new weights."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums
from ..configuration import REFITTING_METHODS, SNPConfig
from ..linear_algebra import parallel_map
from ..losses import Losses
from ..models import SNPModel, build_like
from ..plan import PruningPlan
from ..reshaping.remove import remove, requires_grad_of_rest
from ..reshaping.select import Weights, weight_of
from ..scoring import Scores, pair_scores, query_key_scores, redundancy_scores, residual_scores
from ..structure import Block, Stream, describe
from .rotary import lose_pairs


class Method(ABC):
    """A method of pruning.

    Attributes:
        name (`str`): As `SNPConfig.method` gives it.
        refits (`bool`): Whether what reads a pruned part is fitted to the dense outputs, from second moments. What
            reads a stream that gets narrower needs a bias then.
        keeps_directions (`bool`): Whether directions of queries, keys, values and streams are kept, not neurons.
    """

    name: ClassVar[str]
    keeps_directions: ClassVar[bool] = False

    @property
    def refits(self) -> bool:
        """See the attributes."""
        return self.name in REFITTING_METHODS

    def check_statistics(self, statistics: CalibrationStatistics) -> None:
        """Tells whether the statistics have what the method needs.

        Raises:
            ValueError: If it needs second moments and the statistics have none.
        """
        if self.refits and not statistics.has_moments:
            raise ValueError(
                f"method {self.name!r} needs second moments of the activations, and these statistics have none. "
                "Call calibrate(dataset) again."
            )

    def score(self, model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> Scores:
        """The scores of all neurons.

        Args:
            model:
                The model that the statistics were collected on.
            statistics ([`CalibrationStatistics`]):
                Reduced over all processes.
            config ([`SNPConfig`]):
                Of which `num_singular_directions` and `singular_weighting` are read.

        Raises:
            ValueError: If the method needs second moments and the statistics have none.
        """
        self.check_statistics(statistics)
        structure = describe(model)
        query_key, value = attention_scores(model, statistics, config)
        for index, (block, sums) in enumerate(zip(structure.blocks, statistics.blocks, strict=True)):
            if block.rotary_pairs is not None:
                query_key[index] = self._score_pairs(sums, query_key[index])
        mlp = parallel_map(
            lambda block: self._score_mlp(model, *block), zip(structure.blocks, statistics.blocks, strict=True)
        )
        return Scores(query_key, value, mlp, [self._score_width(model, stream) for stream in structure.streams])

    @abstractmethod
    def score_heads(self, model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> list[torch.Tensor]:
        """One score per head, per block `[heads]`; heads with the least score are removed first.

        Takes and raises what `score` does.
        """

    def loss(self, model: SNPModel, statistics: CalibrationStatistics, scores: Scores) -> Losses:
        """The losses of all sizes of all parts.

        Args:
            model:
                The dense model in our architecture.
            statistics ([`CalibrationStatistics`]):
                Of this model, with moments and sensitivities.
            scores ([`Scores`]):
                Of this model, by this method.

        Returns:
            [`Losses`]
        """
        structure = describe(model)
        losses = Losses([], [], [], [])
        losses.query_key = parallel_map(
            lambda block: self._lose_queries_and_keys(*block),
            zip(structure.blocks, statistics.blocks, scores.query_key, strict=True),
        )
        losses.value = parallel_map(
            lambda block: self._lose_value(block[1], weight_of(model, block[0].output).cpu().double(), block[2]),
            zip(structure.blocks, statistics.blocks, scores.value, strict=True),
        )
        losses.mlp = parallel_map(
            lambda block: self._lose_mlp(block[1], weight_of(model, block[0].down).cpu().double(), block[2]),
            zip(structure.blocks, statistics.blocks, scores.mlp, strict=True),
        )
        for stream, width_scores in zip(structure.streams, scores.widths, strict=True):
            losses.widths.append(self._lose_width(stream, statistics, width_scores))
        return losses

    @abstractmethod
    def lose_heads(
        self, model: SNPModel, block: Block, sums: Sums, query_key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """The squared error per token of what a block's attention adds, `[heads + 1]`; entry `h` keeps `h` heads.

        Args:
            model, block, sums:
                The block, and its statistics with moments.
            query_key, value (`torch.Tensor` of shape `[heads, head_dim]`):
                The scores of its neurons.
        """

    def reshape(self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None = None) -> SNPModel:
        """Builds the pruned model.

        Args:
            model:
                The dense model in our architecture; it is not changed.
            plan ([`PruningPlan`]):
                Made for this model, by this method.
            statistics ([`CalibrationStatistics`], *optional*):
                Of this model, with second moments. Only a method that refits nothing does without.

        Returns:
            A model of the same class, in eval mode, on the same device and in the same dtype; what was frozen stays
            frozen.

        Raises:
            ValueError: If the plan was made for a model of other sizes, or statistics that are needed are missing.
        """
        config = plan.pruned_config(model.config)
        if self.refits and (statistics is None or not statistics.has_moments):
            raise ValueError(
                f"method {self.name!r} solves for the new weights from second moments of the activations, and there "
                "are none. Call calibrate(dataset) first."
            )
        remaining_model, remaining_statistics = remove(model, plan.heads, statistics, refits=self.refits)
        weights = self._new_weights(remaining_model, plan, remaining_statistics)
        return build_like(
            model, type(model), config, weights, requires_grad_of_rest(model, plan.heads, remaining_model)
        )

    def kept_directions(
        self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None = None
    ) -> dict[int, torch.Tensor]:
        """What `reshape` keeps of the streams that get narrower: by their positions `[width, kept]`, float64.

        Takes what `reshape` does.
        """
        return {
            index: torch.eye(width.before, dtype=torch.float64)[:, width.kept]
            for index, width in enumerate(plan.widths)
            if width.after < width.before
        }

    @abstractmethod
    def _score_mlp(self, model: SNPModel, block: Block, sums: Sums) -> torch.Tensor:
        """`[intermediate_size]`, float64."""

    def _score_width(self, model: SNPModel, stream: Stream) -> torch.Tensor:
        """`[width]`, float64."""
        return residual_scores(model, stream)

    def _score_pairs(self, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        """The scores of the pairs of rotary positions from those of their neurons, both `[heads, qk_head_dim]`."""
        return pair_scores(scores)

    def _lose_queries_and_keys(self, block: Block, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        """`[qk_head_dim + 1]`; infinite for sizes that cannot be."""
        if block.rotary_pairs is not None:
            return lose_pairs(sums, scores, refit=self.refits)
        return self._lose_query_key(sums, scores)

    @abstractmethod
    def _lose_query_key(self, sums: Sums, scores: torch.Tensor) -> torch.Tensor:
        """`[qk_head_dim + 1]`."""

    @abstractmethod
    def _lose_value(self, sums: Sums, output: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`[v_head_dim + 1]`, given the weight of the output layer."""

    @abstractmethod
    def _lose_mlp(self, sums: Sums, down: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`[intermediate_size + 1]`, given the weight of the second layer."""

    @abstractmethod
    def _lose_width(self, stream: Stream, statistics: CalibrationStatistics, scores: torch.Tensor) -> torch.Tensor:
        """`[width + 1]`: the sum over all norms of the stream of what their readers lose."""

    @abstractmethod
    def _new_weights(self, model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None) -> Weights:
        """All weights of the pruned model, given what is left without the heads and blocks that go as a whole."""


def attention_scores(
    model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """SNP's scores of query/key pairs and of values, per block `[heads, head_dim]`."""
    query_key = [
        query_key_scores(sums, config.num_singular_directions, config.singular_weighting) for sums in statistics.blocks
    ]
    value = [
        redundancy_scores(weight_of(model, block.value)).view(block.num_attention_heads, -1)
        for block in describe(model).blocks
    ]
    return query_key, value

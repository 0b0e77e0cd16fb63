"""The latency of a model as a function of the sizes of its parts."""

import itertools
from typing import Any

import torch

from ..benchmarking.latency_table import LatencyTable, block_kinds
from ..models import SNPModel
from ..plan.sizes import Part, Sizes, Slot, dense_sizes
from ..structure import describe


class LatencyCosts:
    """Seconds of a forward pass, from a table that was measured.

    It is asked for the same things as [`SizeCosts`], which counts operations or parameters.

    Args:
        model:
            The dense model.
        table ([`LatencyTable`]):
            Of its architecture.
        merged (`list[int]`, *optional*):
            Per block how many tokens it merges; the table then has to know merging. Defaults to none.

    Attributes:
        sizes (`dict[Slot, int]`): Of the dense model.
    """

    def __init__(self, model: SNPModel, table: LatencyTable, merged: list[int] | None = None):
        structure = describe(model)
        self.sizes = dense_sizes(model.config)
        self._table = table
        self._kinds = block_kinds(structure)
        self._streams = [block.stream for block in structure.blocks]
        self._num_streams = len(structure.streams)
        self._merged = merged or [0] * len(structure.blocks)
        # Tokens that reach a block, and that are left behind its attention.
        gone = [0, *itertools.accumulate(self._merged)]
        self._tokens = [
            (block.map_tokens - before, block.map_tokens - after)
            for block, (before, after) in zip(structure.blocks, itertools.pairwise(gone), strict=True)
        ]

    def total(self, sizes: Sizes) -> float:
        """The seconds of a model of these sizes."""
        blocks = sum(self._block(index, sizes) for index in range(len(self._kinds)))
        return float(blocks + self._rest(sizes))

    def curve(self, slot: Slot, candidates: torch.Tensor, sizes: Sizes) -> torch.Tensor:
        """What every candidate size of a part costs, `[candidates]`, when all others stay; but for a constant."""
        part, index = slot
        changed = {**sizes, slot: candidates}
        if part is not Part.WIDTH:
            return self._block(index, changed)
        blocks = (self._block(block, changed) for block, stream in enumerate(self._streams) if stream == index)
        return sum(blocks, start=self._rest(changed))

    def attention(
        self, block: int, query_key: torch.Tensor, value: torch.Tensor, sizes: Sizes, *, padded: bool
    ) -> torch.Tensor:
        """What candidate sizes of a block's queries/keys and values cost together, `[query_key, value]`.

        `padded` means nothing here: what attention pads has been measured.
        """
        width = sizes[Part.WIDTH, self._streams[block]]
        return self._table.attention[self._kinds[block]](self._tokens[block][0], query_key, value, width)

    def _block(self, index: int, sizes: dict[Slot, Any]) -> torch.Tensor:
        kind, width = self._kinds[index], sizes[Part.WIDTH, self._streams[index]]
        before, after = self._tokens[index]
        query_key, value = sizes[Part.QUERY_KEY, index], sizes[Part.VALUE, index]
        seconds = self._table.attention[kind](before, query_key, value, width)
        seconds = seconds + self._table.mlp[kind](after, sizes[Part.MLP, index], width)
        if self._merged[index]:
            seconds = seconds + self._table.merging[kind](before, width)
        return seconds

    def _rest(self, sizes: dict[Slot, Any]) -> torch.Tensor:
        widths = ((Part.WIDTH, stream) for stream in range(self._num_streams))
        return self._table.rest(sum(sizes[width] / self.sizes[width] for width in widths) / self._num_streams)

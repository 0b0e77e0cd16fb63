"""How long the parts of an architecture take by their sizes: a table that is measured once per machine and kept."""

import bisect
import hashlib
import itertools
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from ..structure import Structure


logger = logging.getLogger(__name__)


@dataclass
class Grid:
    """Seconds on a grid of sizes, linear in every size between the points of the grid and constant beyond.

    Attributes:
        axes (`list[list[float]]`): The sizes along every dimension, rising.
        seconds (nested `list` of `float`): One number for every combination of them.

    Raises:
        ValueError: If the two do not fit each other, or a number is negative or none.
    """

    axes: list[list[float]]
    seconds: list

    def __post_init__(self) -> None:
        self._seconds = torch.tensor(self.seconds, dtype=torch.float64)
        if self._seconds.shape != tuple(map(len, self.axes)) or not (self._seconds >= 0).all():
            raise ValueError("The seconds of a latency table do not fit its sizes.")
        rising = all(less < more for axis in self.axes for less, more in itertools.pairwise(axis))
        if not torch.isfinite(self._seconds).all() or not rising:
            raise ValueError("A latency table must have finite seconds and rising sizes.")

    def __call__(self, *sizes: Any) -> torch.Tensor:
        """The seconds of every combination of sizes.

        Args:
            sizes (`torch.Tensor` of shape `[n]` or number, one per axis):
                The sizes.

        Returns:
            `torch.Tensor` of shape `[n of the first, n of the second, …]`: float64; a number has no dimension.
        """
        seconds = self._seconds
        for axis, points in zip(self.axes, sizes, strict=True):
            if isinstance(points, torch.Tensor):
                seconds = torch.tensordot(seconds, _shares_of_points(axis, points), dims=([0], [0]))
            else:
                seconds = _at(axis, points, seconds)
        return seconds


def _at(axis: list[float], point: float, values: torch.Tensor) -> torch.Tensor:
    """The values `[axis, …]` at one point of the axis, `[…]`."""
    upper = bisect.bisect_left(axis, point)
    if upper == 0 or upper == len(axis):
        return values[min(upper, len(axis) - 1)]
    return torch.lerp(values[upper - 1], values[upper], (point - axis[upper - 1]) / (axis[upper] - axis[upper - 1]))


def _shares_of_points(axis: list[float], points: torch.Tensor) -> torch.Tensor:
    """How much of every value `[axis]` is in that at each of `points`, `[axis, points]`."""
    known = torch.tensor(axis, dtype=torch.float64)
    shares = torch.zeros(len(axis), len(points), dtype=torch.float64)
    if len(axis) == 1:
        return shares + 1
    points = points.double().clamp(axis[0], axis[-1])
    upper = torch.searchsorted(known, points).clamp_min(1).unsqueeze(0)
    share = (points - known[upper - 1]) / (known[upper] - known[upper - 1])
    return shares.scatter(0, upper, share).scatter(0, upper - 1, 1 - share)


@dataclass
class LatencyTable:
    """Seconds of the parts of an architecture.

    Attributes:
        attention (`dict[str, Grid]`):
            Of a block with next to no MLP, by the tokens that reach it, its query/key and value size per head and its
            width, for every kind of block; see [`block_kinds`].
        mlp (`dict[str, Grid]`):
            What an MLP adds to that, by the tokens, its size and the width.
        merging (`dict[str, Grid]`):
            Of merging tokens, by those before and the width; empty where it was not measured.
        rest ([`Grid`]):
            Of the model beside its blocks, by the mean over its streams of width / dense width.
    """

    attention: dict[str, Grid]
    mlp: dict[str, Grid]
    merging: dict[str, Grid]
    rest: Grid

    def save(self, path: Path, description: dict[str, Any]) -> None:
        """Writes the table as JSON, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"description": description, **asdict(self)}))
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path, description: dict[str, Any]) -> "LatencyTable":
        """Reads what `save` wrote.

        Raises:
            OSError: If there is no such file.
            ValueError, KeyError, TypeError: If it holds anything else than a table of this description.
        """
        saved = json.loads(path.read_text())
        if saved["description"] != description:
            raise ValueError("The table is one of something else.")
        parts = ("attention", "mlp", "merging")
        grids = [{kind: Grid(**grid) for kind, grid in saved[part].items()} for part in parts]
        return cls(*grids, Grid(**saved["rest"]))


def block_kinds(structure: Structure) -> list[str]:
    """For every block a name that it shares with blocks that differ in nothing but the sizes of their parts."""
    return [
        f"stream {block.stream}, {block.num_attention_heads} heads, {block.num_maps} x {block.map_tokens} tokens"
        for block in structure.blocks
    ]


def table_path(description: dict[str, Any]) -> Path:
    """Where the table of this description is kept: in the cache folder of Hugging Face."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return Path(constants.HF_HOME) / "optimum_snp" / "latency" / f"{digest[:16]}.json"

"""What a benchmark found: rows, the machine, and a table of both."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from .contender import Contender


@dataclass(frozen=True)
class Row:
    """One model on one backend, with one batch size and number of threads.

    Attributes:
        model (`str`): Its name.
        backend (`str`): What ran it.
        dtype (`str`): Of the model.
        precision (`str`): What was computed in, where it is not int8.
        batch_size (`int`): Images per pass.
        threads (`int`, *optional*): Of the CPU; `None` on a GPU.
        seconds (`float`): Median of one pass.
        first_quartile, third_quartile (`float`): Half of all passes lie between these seconds.
        images_per_second (`float`): By the median.
        speed_up (`float`): Median of the first row of the same batch size and threads over this one's.
        peak_memory (`int`, *optional*): Bytes.
    """

    model: str
    backend: str
    dtype: str
    precision: str
    batch_size: int
    threads: int | None
    seconds: float
    first_quartile: float
    third_quartile: float
    images_per_second: float
    speed_up: float
    peak_memory: int | None

    @classmethod
    def of(
        cls,
        contender: Contender,
        batch_size: int,
        threads: int | None,
        spread: tuple[float, float, float],
        first: float,
        peak_memory: int | None,
    ) -> "Row":
        """The row of a contender with its quartiles, where the median of the first one is `first`."""
        low, median, high = spread
        return cls(
            contender.model,
            contender.backend,
            contender.dtype,
            contender.precision,
            batch_size,
            threads,
            median,
            low,
            high,
            batch_size / median,
            first / median,
            peak_memory,
        )


def quartiles(seconds: list[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, median, high


@dataclass
class BenchmarkReport:
    """What a benchmark found.

    Attributes:
        rows (`list[Row]`): By threads, then by batch size, then in the order of the models and backends.
        machine (`dict`): What it was measured on; see [`describe_machine`].
    """

    rows: list[Row]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict that JSON can hold."""
        return {"machine": self.machine, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        """A table in Markdown for each number of threads and batch size, and below it the machine."""
        lines, setting = [], None
        for row in self.rows:
            if (row.threads, row.batch_size) != setting:
                setting = row.threads, row.batch_size
                lines += ["", _title(row), "", *_HEAD]
            lines.append(_format(row))
        return "\n".join([*lines[1:], "", _machine(self.machine)])


_HEAD = [
    "| model | backend | dtype | milliseconds | quartiles | images/s | speed-up | peak memory |",
    "|---|---|---|---:|---:|---:|---:|---:|",
]


def _title(row: Row) -> str:
    threads = "" if row.threads is None else f", {row.threads} thread{'s' * (row.threads > 1)}"
    return f"**Batch {row.batch_size}{threads}**"


def _format(row: Row) -> str:
    dtype = row.dtype if row.precision in ("fp32", row.dtype) else f"{row.dtype}, {row.precision}"
    cells = [
        row.model,
        row.backend,
        dtype,
        f"{row.seconds * 1e3:.2f}",
        f"{row.first_quartile * 1e3:.2f} to {row.third_quartile * 1e3:.2f}",
        f"{row.images_per_second:.1f}",
        f"{row.speed_up:.2f}",
        "" if row.peak_memory is None else f"{row.peak_memory / 1e6:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} at the end"
    return f"{machine['processor']}, {machine['cores']} CPU cores{load}; {machine['system']}; {versions}."

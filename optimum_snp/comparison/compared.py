"""What a comparison found: a row per model, and a table of them."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Row:
    """One model.

    Attributes:
        model (`str`): Its name.
        macs (`int`): Multiply-accumulates for one image.
        parameters (`int`): Number of weights.
        calibration_images (`int`, *optional*): Images that its last pruning was calibrated on.
        accuracy (`float`, *optional*): Top-1 on the labelled images, a share.
        agreement (`float`, *optional*): Share of the images with the class that the first model gives them.
        divergence (`float`, *optional*): Mean Kullback-Leibler divergence of its predictions from the first model's,
            in nats.
        seconds (`dict[str, float]`): By backend the median of one pass over one image.
    """

    model: str
    macs: int
    parameters: int
    calibration_images: int | None = None
    accuracy: float | None = None
    agreement: float | None = None
    divergence: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        rows (`list[Row]`): The models; the first is what the others are held against.
        dataset (`str`, *optional*): What the labelled images are called.
        num_images (`int`): Of them.
        machine (`dict`, *optional*): What the latencies were measured on.
    """

    rows: list[Row]
    dataset: str | None = None
    num_images: int = 0
    machine: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The comparison as a dict that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        """A table in Markdown; what nobody measured has no column."""
        first = self.rows[0]
        columns = {
            "model": [row.model for row in self.rows],
            "GMACs": [f"{row.macs / 1e9:.3g} ({row.macs / first.macs:.0%})" for row in self.rows],
            "parameters": [f"{row.parameters / 1e6:.3g} M" for row in self.rows],
            "calibrated on": [_cell(row.calibration_images, "d") for row in self.rows],
            "top-1": [_cell(row.accuracy, ".2%") for row in self.rows],
            "agreement": [_cell(row.agreement, ".2%") for row in self.rows],
            "KL": [_cell(row.divergence, ".3f") for row in self.rows],
        }
        for backend in first.seconds:
            columns[f"{backend}, ms"] = [
                f"{row.seconds[backend] * 1e3:.2f} ({first.seconds[backend] / row.seconds[backend]:.2f}x)"
                for row in self.rows
            ]
        columns = {name: cells for name, cells in columns.items() if any(cells)}
        lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += [f"| {' | '.join(cells)} |" for cells in zip(*columns.values(), strict=True)]
        if self.dataset is not None:
            lines += ["", f"{self.num_images} images of {self.dataset}; agreement and KL with {first.model}."]
        if self.machine is not None:
            lines.append(f"One image, one thread of {self.machine['processor']}, all models in turn.")
        return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

"""A picture of a benchmark: images per second of every row."""

from pathlib import Path

from ..drawing import BLUE, DPI, GREEN, ORANGE, PINK, WIDTH
from ..folders import atomic_file
from .benchmark_report import BenchmarkReport


_COLOURS = {"eager": BLUE, "compile": GREEN, "onnxruntime": ORANGE, "openvino": PINK}


def plot_benchmark(report: BenchmarkReport, path: str | Path) -> None:
    """Draws bars of images per second with the speed-ups, one panel per batch size and number of threads.

    Args:
        report ([`BenchmarkReport`]):
            What was measured.
        path (`str` or `Path`):
            The picture, such as `speed.png`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    settings = list(dict.fromkeys((row.threads, row.batch_size) for row in report.rows))
    heights = [sum((row.threads, row.batch_size) == setting for row in report.rows) for setting in settings]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.5 * len(settings) + 0.24 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(settings), 1, squeeze=False, height_ratios=[height + 1 for height in heights])[:, 0]
    for axes, (threads, batch_size) in zip(panels, settings, strict=True):
        rows = [row for row in report.rows if (row.threads, row.batch_size) == (threads, batch_size)]
        speeds = [row.images_per_second for row in rows]
        bars = axes.barh(range(len(rows)), speeds, color=[_COLOURS[row.backend] for row in rows])
        axes.bar_label(bars, [f"{row.speed_up:.2f}x" for row in rows], padding=3, fontsize=8)
        names = [row.model if row.dtype == "fp32" else f"{row.model}, {row.dtype}" for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        where = "" if threads is None else f", {threads} thread{'s' * (threads > 1)}"
        axes.set_title(f"batch {batch_size}{where}", loc="left", fontsize=10)
    panels[-1].set_xlabel(f"images per second, {report.machine['processor']}")
    shown = [name for name in _COLOURS if any(row.backend == name for row in report.rows)]
    legend = [Patch(color=_COLOURS[name], label=name) for name in shown]
    figure.legend(handles=legend, loc="outside upper right", ncols=len(shown), frameon=False, fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=DPI)

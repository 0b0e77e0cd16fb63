"""A picture of a comparison: what is kept over what it costs, and how fast it is."""

from pathlib import Path
from typing import Any

from ..drawing import BLUE, DPI, GREEN, GREY, ORANGE, PINK, WIDTH
from ..folders import atomic_file
from .compared import Comparison


_LEAST_SPAN = 20  # per cent of accuracy, so that small differences look small
_COLOURS = (BLUE, ORANGE, GREEN, PINK)


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draws accuracy (or else agreement) over FLOPs, and bars of latency where that was measured.

    Args:
        comparison ([`Comparison`]):
            What was found.
        path (`str` or `Path`):
            The picture, such as `comparison.png`.
    """
    from matplotlib.figure import Figure

    rows, first = comparison.rows, comparison.rows[0]
    has_quality, has_seconds = first.accuracy is not None, bool(first.seconds)
    panels = has_quality + has_seconds or 1
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained", facecolor="white")
    axes: Any = figure.subplots(1, panels, squeeze=False)[0]
    if has_quality:
        for number, row in enumerate(rows):
            style = {"marker": "o", "markersize": 9, "linestyle": "none"}
            colour = GREY if number == 0 else _COLOURS[(number - 1) % len(_COLOURS)]
            axes[0].plot(row.macs / 1e9, 100 * (row.accuracy or 0.0), color=colour, label=row.model, **style)
        low, high = (100 * bound(row.accuracy or 0.0 for row in rows) for bound in (min, max))
        middle, span = (low + high) / 2, max(1.4 * (high - low), _LEAST_SPAN)
        axes[0].set_ylim(middle - span / 2, min(middle + span / 2, 100.5))
        axes[0].margins(x=0.2)
        axes[0].legend(frameon=False, fontsize=9, loc="lower right")
        axes[0].set_xlim(left=0)
        axes[0].set_xlabel("GMACs of one image")
        axes[0].set_ylabel("top-1 accuracy (%)")
        axes[0].grid(alpha=0.3)
    if has_seconds or not has_quality:
        bars = axes[-1]
        backends = list(first.seconds) or ["GMACs"]
        height = 0.8 / len(backends)
        for place, backend in enumerate(backends):
            values = [row.seconds[backend] * 1e3 if first.seconds else row.macs / 1e9 for row in rows]
            drawn = bars.barh(
                [number + place * height for number in range(len(rows))], values, height=0.9 * height,
                color=_COLOURS[place % len(_COLOURS)], label=backend,
            )  # fmt: skip
            bars.bar_label(drawn, [f"{values[0] / value:.2f}x" for value in values], padding=3, fontsize=9)
        bars.set_yticks([number + 0.4 - height / 2 for number in range(len(rows))], [row.model for row in rows])
        bars.invert_yaxis()
        bars.margins(x=0.15)
        bars.set_xlabel("milliseconds for one image, one thread" if first.seconds else "GMACs of one image")
        if len(backends) > 1:
            bars.legend(frameon=False, fontsize=9)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=DPI)

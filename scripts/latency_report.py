"""Tables and picture of `benchmark_latency.py`: speed-ups beside FLOPs ratios and the paper's figures."""

from pathlib import Path
from typing import Any

from reporting import COLOURS, GREYS


# SNP (arXiv 2404.11630), speed-ups over the dense model that the paper reports.
PAPER = {
    "deit-tiny-0.6g": {"Xeon, PyTorch": 1.38, "Raspberry Pi 4, ONNX": 1.70},
    "deit-small-2.0g": {"Xeon, PyTorch": 1.38, "Raspberry Pi 4, ONNX": 2.01},
    "deit-small-1.3g": {"Xeon, PyTorch": 1.60, "Raspberry Pi 4, ONNX": 2.94},
    "deit-base-6.4g": {"Xeon, PyTorch": 1.89, "Raspberry Pi 4, ONNX": 2.44},
}
PAPER_COLUMNS = ("Xeon, PyTorch", "Raspberry Pi 4, ONNX")


def format_tables(results: dict[str, Any]) -> str:
    """Markdown: for each number of threads and batch size one table, then the times and the machine."""
    lines = []
    for threads, batch_size in settings(results):
        backends = backends_of(results)
        speed_ups = speed_ups_of(results, threads, batch_size)
        lines += [
            f"**Batch {batch_size}, {threads} thread{'s' * (threads > 1)}**: speed-up over the dense model on the same"
            " backend, and in brackets its share of the FLOPs ratio",
            "",
            f"| plan | GMACs | FLOPs ratio | {' | '.join(backends)} | paper, {' | paper, '.join(PAPER_COLUMNS)} |",
            "|---|---:|---:|" + "---:|" * (len(backends) + len(PAPER_COLUMNS)),
        ]
        for plan, (dense, of_backend) in speed_ups.items():
            ratio = results["macs"][dense] / results["macs"][plan]
            cells = [f"{speed:.2f} ({speed / ratio:.2f})" for speed in (of_backend[backend] for backend in backends)]
            paper = PAPER[plan.split()[0]] if plan.endswith("published") else {}
            cells += [f"{paper[column]:.2f}" if paper else "" for column in PAPER_COLUMNS]
            lines.append(f"| {plan} | {results['macs'][plan] / 1e9:.2f} | {ratio:.2f} | {' | '.join(cells)} |")
        lines += ["", *_against_eager(results, threads, batch_size), ""]
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join([*lines, f"{machine['processor']}, {machine['cores']} cores; {versions}.", ""])


def _against_eager(results: dict[str, Any], threads: int, batch_size: int) -> list[str]:
    """All rows with their times and what they gain over transformers' dense model in eager PyTorch."""
    lines = [
        "| model | backend | dtype | milliseconds | quartiles | over the dense model in eager PyTorch |",
        "|---|---|---|---:|---:|---:|",
    ]
    rows = rows_of(results, threads, batch_size)
    baselines = {row["model"]: row["seconds"] for row in rows if row["backend"] == "eager"}
    for row in rows:
        spread = f"{row['first_quartile'] * 1e3:.1f} to {row['third_quartile'] * 1e3:.1f}"
        gain = f"{baselines[row['dense']] / row['seconds']:.2f}" if row["dense"] in baselines else ""
        name = row["model"].removesuffix(f" {row['backend']}")
        cells = [name, row["backend"], row["dtype"], f"{row['seconds'] * 1e3:.1f}", spread, gain]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def speed_ups_of(results: dict[str, Any], threads: int, batch_size: int) -> dict[str, tuple[str, dict[str, float]]]:
    """For each float32 plan its dense model, and by backend how much faster it is than that."""
    rows = [row for row in rows_of(results, threads, batch_size) if row["dtype"] == "fp32"]
    seconds = {(row["model"], row["backend"]): row["seconds"] for row in rows}
    plans = {row["model"]: row["dense"] for row in rows if row["model"] != row["dense"]}
    return {
        plan: (dense, {name: seconds[dense, name] / seconds[plan, name] for name in backends_of(results)})
        for plan, dense in plans.items()
    }


def rows_of(results: dict[str, Any], threads: int, batch_size: int) -> list[dict[str, Any]]:
    """Those of one number of threads and one batch size."""
    return [row for row in results["rows"] if (row["threads"], row["batch_size"]) == (threads, batch_size)]


def settings(results: dict[str, Any]) -> list[tuple[int, int]]:
    """The numbers of threads and batch sizes."""
    return list(dict.fromkeys((row["threads"], row["batch_size"]) for row in results["rows"]))


def backends_of(results: dict[str, Any]) -> list[str]:
    """In the order in which they were measured."""
    return list(dict.fromkeys(row["backend"] for row in results["rows"]))


def plot_speed_ups(results: dict[str, Any], path: Path) -> None:
    """Bars of speed-ups over the dense model, a line at the FLOPs ratio, and the paper's figures in grey."""
    from matplotlib.figure import Figure

    panels, backends = settings(results), backends_of(results)
    figure = Figure(figsize=(9.5, 3.6 * len(panels) + 0.6), layout="constrained", facecolor="white")
    axes_of = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (threads, batch_size) in zip(axes_of, panels, strict=True):
        speed_ups = speed_ups_of(results, threads, batch_size)
        series = {f"paper: {column}": [] for column in PAPER_COLUMNS} | {backend: [] for backend in backends}
        ratios = []
        for plan, (dense, of_backend) in speed_ups.items():
            paper = PAPER[plan.split()[0]] if plan.endswith("published") else {}
            for column in PAPER_COLUMNS:
                series[f"paper: {column}"].append(paper.get(column, 0))
            for backend in backends:
                series[backend].append(of_backend[backend])
            ratios.append(results["macs"][dense] / results["macs"][plan])
        width = 0.8 / len(series)
        colours = [*GREYS, *COLOURS]
        for number, (name, values) in enumerate(series.items()):
            places = [plan - 0.4 + (number + 0.5) * width for plan in range(len(values))]
            axes.bar(places, values, width, label=name, color=colours[number])
        for plan, ratio in enumerate(ratios):
            axes.hlines(
                ratio, plan - 0.4, plan + 0.4, "black", "dashed", linewidth=1, label="FLOPs" if not plan else None
            )
        axes.set_xticks(range(len(speed_ups)), [_label(plan) for plan in speed_ups], fontsize=7)
        axes.set_title(f"batch {batch_size}, {threads} thread{'s' * (threads > 1)}", loc="left", fontsize=10)
        axes.set_ylabel("speed-up over dense")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _label(plan: str) -> str:
    preset, kind = plan.split(" ", 1)
    return "\n".join((*preset.rsplit("-", 1), kind.replace(" of", "\nof")))

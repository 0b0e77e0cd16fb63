"""Budgets beside shares set by hand: accuracy without training at equal FLOPs.

    pip install -e .[benchmark]
    make demo                                                  # trains the DeiT and the Swin
    python scripts/benchmark_budgets.py --models demo-output/deit/dense demo-output/swin/dense --output results/budgets

For every method and mark the model is pruned by one share for queries/keys, values and MLP in all blocks; by the same
with half of that share of the width; and by `target_flops` with exactly the multiply-accumulates that the cheaper of
the two leaves. For models with one width the published shares of `deit-small-2.0g` and `deit-small-1.3g`, stretched to
the number of blocks, stand beside a budget of their size too. All from the same 64 unlabelled images. Budgets are
measured with sizes as free as those of shares (`round_to=1`), and with the default, which prefers multiples of 8.

`change` is the mean squared change of the logits (less their mean) from the dense model, on the test images: it tells
plans apart where accuracy is saturated. Also printed: how well the losses of single parts, which budgets weigh, agree
with that change when each part is pruned alone; and the seconds of planning beside one forward pass of the images.

Writes `budgets.md` (the tables, also printed) and `budgets.json`.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from benchmark_one_shot import PACKAGES, shares_for_reduction, title
from digits import Images, choose, digits_parser, load_digits, measure_accuracy
from reporting import collect_versions
from tqdm.auto import tqdm
from transformers import AutoModelForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.configuration import METHODS
from optimum_snp.methods import method_of
from optimum_snp.models import SNPModel
from optimum_snp.plan.sizes import NEURON_PARTS, kept_size
from optimum_snp.structure import block_sizes, stream_widths
from optimum_snp.structure.costs import count_macs


logger = logging.getLogger("benchmark_budgets")

NO_WIDTH = {"qk_sparsity": 1.0, "v_sparsity": 1.0, "mlp_sparsity": 1.0, "hidden_sparsity": 0.0}
WITH_WIDTH = NO_WIDTH | {"hidden_sparsity": 0.5}
BLOCK_SHARES = [part.share_name for part in NEURON_PARTS]
PRESETS = ("deit-small-2.0g", "deit-small-1.3g")


def stretched(preset: str, num_blocks: int) -> dict[str, Any]:
    """The published shares of a model of 12 blocks for one of `num_blocks`: each takes those at its relative depth."""
    config = SNPConfig.from_preset(preset)
    places = [round(block * 11 / max(num_blocks - 1, 1)) for block in range(num_blocks)]
    shares = {part: [getattr(config, part)[place] for place in places] for part in BLOCK_SHARES}
    return shares | {"hidden_sparsity": config.hidden_sparsity}


class Subject:
    """A calibrated model with what its pruned versions are measured by."""

    def __init__(self, folder: str, train: Images, test: Images, num_images: int, seed: int):
        self.source = AutoModelForImageClassification.from_pretrained(folder).eval()
        self.pruner = SNPPruner(self.source)
        self.test = test
        calibration = choose(train, num_images, seed)
        self.pruner.calibrate(calibration.pixels, num_images)
        self.dense = self.pruner.model
        self.dense_logits = self._logits(self.dense)
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in calibration.pixels.split(16):
                self.dense(batch)
        self.forward_seconds = time.perf_counter() - start

    def prune(self, **options: Any) -> dict[str, float]:
        """Accuracy, change of the logits, share of the FLOPs and seconds of planning of one plan."""
        pruner = self.pruner.copy()  # `prune` replaces the model of a pruner; the calibrated one stays
        start = time.perf_counter()
        plan = pruner.plan(SNPConfig(**options))
        seconds = time.perf_counter() - start
        model = pruner.prune(plan)
        return {
            "accuracy": measure_accuracy(model, self.test),
            "change": self._change(model),
            "flops": plan.macs_after / plan.macs_before,
            "seconds": seconds,
        }

    def budgets(self, method: str, target: float) -> dict[str, dict[str, float]]:
        """A budget with sizes as free as those of the shares, and one with the sizes that kernels like."""
        return {
            "budget": self.prune(method=method, target_flops=target, round_to=1),
            "friendly": self.prune(method=method, target_flops=target),
        }

    def agreement(self, method: str) -> float:
        """Rank correlation of the predicted with the measured change, over single parts of single blocks."""
        config = SNPConfig(method=method)
        statistics = self.pruner.statistics
        scores = method_of(config).score(self.dense, statistics, config)
        losses = method_of(config).loss(self.dense, statistics, scores)
        curves = dict(zip(BLOCK_SHARES, (losses.query_key, losses.value, losses.mlp), strict=True))
        num_blocks = len(block_sizes(self.dense.config))
        predicted, measured = [], []
        for part, curve in curves.items():
            for block in range(num_blocks):
                for share in (0.5, 0.75):
                    shares = [share if index == block else 0.0 for index in range(num_blocks)]
                    predicted.append(float(curve[block][kept_size(len(curve[block]) - 1, share, 1)]))
                    measured.append(self._change(self.pruner.copy().prune(SNPConfig(method=method, **{part: shares}))))
        ranks = torch.tensor([predicted, measured]).argsort().argsort().double()
        return float(torch.corrcoef(ranks)[0, 1])

    def _change(self, model: SNPModel) -> float:
        return float((self._logits(model) - self.dense_logits).square().sum(dim=1).mean())

    @torch.inference_mode()
    def _logits(self, model: SNPModel) -> torch.Tensor:
        logits = torch.cat([model(batch).logits for batch in self.test.pixels.split(100)])
        return logits - logits.mean(dim=1, keepdim=True)


def benchmark_model(subject: Subject, reductions: list[float]) -> dict[str, Any]:
    """All rows of one model."""
    rows = []
    for method in METHODS:
        for reduction in tqdm(reductions, desc=f"{title(subject.source, subject.dense)}, {method}"):
            plain, with_width = (
                subject.prune(method=method, **shares_for_reduction(subject.dense, reduction, mix))
                for mix in (NO_WIDTH, WITH_WIDTH)
            )
            row = {"method": method, "row": f"-{reduction:.0%}", "plain": plain, "width": with_width}
            rows.append(row | subject.budgets(method, min(plain["flops"], with_width["flops"])))
        if len(stream_widths(subject.dense.config)) == 1:
            for preset in PRESETS:
                shares = stretched(preset, len(block_sizes(subject.dense.config)))
                published = subject.prune(method=method, **shares)
                row = {"method": method, "row": preset, "published": published}
                rows.append(row | subject.budgets(method, published["flops"]))
    return {
        "model": title(subject.source, subject.dense),
        "dense_accuracy": measure_accuracy(subject.dense, subject.test),
        "dense_macs": count_macs(subject.dense),
        "forward_seconds": subject.forward_seconds,
        "agreement": {method: subject.agreement(method) for method in METHODS},
        "rows": rows,
    }


def format_report(report: dict[str, Any]) -> str:
    """The table of one model in markdown: accuracy in per cent, and the change of the logits in brackets."""

    def cell(row: dict[str, Any], name: str) -> str:
        if name not in row:
            return "\N{EN DASH}"
        return f"{100 * row[name]['accuracy']:.1f} ({row[name]['change']:.2g})"

    seconds = {
        method: max(row["budget"]["seconds"] for row in report["rows"] if row["method"] == method)
        for method in METHODS
    }
    agreement = ", ".join(f"`{method}` {value:.2f}" for method, value in report["agreement"].items())
    planning = ", ".join(f"`{method}` {value:.1f} s" for method, value in seconds.items())
    lines = [
        f"**{report['model']}**: dense accuracy {report['dense_accuracy']:.1%}, {report['dense_macs'] / 1e6:.1f} M "
        "MACs",
        "",
        "| method | pruned | FLOPs left | one share | one share, width too | published shares | budget | budget, "
        "multiples of 8 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        cells = [cell(row, name) for name in ("plain", "width", "published", "budget", "friendly")]
        lines.append(
            f"| `{row['method']}` | {row['row']} | {row['budget']['flops']:.1%} | " + " | ".join(cells) + " |"
        )
    lines += [
        "",
        f"Rank correlation of predicted and measured change of single parts: {agreement}. Planning, at most: "
        f"{planning}; one forward pass of the images: {report['forward_seconds']:.1f} s.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs all models and writes the tables."""
    parser = digits_parser(__doc__)
    parser.add_argument("--output", type=Path, default="results/budgets", help="folder (default: %(default)s)")
    parser.add_argument(
        "--reductions", nargs="+", type=float, default=[0.25, 0.5, 0.7, 0.8], help="shares of the FLOPs to remove"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    train, test = load_digits()
    reports = []
    for folder in args.models:
        reports.append(benchmark_model(Subject(folder, train, test, args.num_calibration, args.seed), args.reductions))
        print(format_report(reports[-1]), flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "budgets.md").write_text("\n".join(map(format_report, reports)))
    result = {"versions": collect_versions(PACKAGES), "settings": vars(args), "models": reports}
    (args.output / "budgets.json").write_text(json.dumps(result, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()

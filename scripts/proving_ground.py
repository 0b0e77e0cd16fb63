"""The judge of methods: a real pretrained ViT on two tasks, every method and baseline at equal sizes.

    python scripts/prepare_real_vit.py
    python scripts/proving_ground.py --tasks stamps --budgets 0.75 0.5 0.3

Nothing is trained and no label is seen: all methods calibrate on the same unlabelled images. A row is a budget of
multiply-accumulates, whose sizes are those of our plan for all methods, or a share of one part of every block. A
baseline has rules for some parts only and is left out of rows that need others. Torch-Pruning (pip install
torch-pruning) needs queries, keys and values of one size: `--uniform` lets budgets choose one size for all blocks. Its
Taylor scores get the dense model's own classes in place of labels.

For each cell: accuracy on the test, agreement with the dense model, mean KL divergence from its predictions (nats),
the squared error of the final features by their variance, and the seconds of planning and of pruning. Rank by KL and
feature error, which have little noise; decide on `--split held-out`, which are calibration images that no method saw,
and report on `--split test`. Writes `proving_ground.md` (also printed) and `proving_ground.json`.
"""

import argparse
import copy
import importlib.util
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from baselines import corp, nuwa, snapvit, vbp
from baselines.equal_sizes import plan_of_sizes, pruned_parts, sizes_of
from baselines.scores import l2_norm
from baselines.torch_pruning import prune_with_torch_pruning
from real_vit.arguments import ground_parser, parse
from real_vit.ground import Ground, Outputs, compare, load_ground, outputs_of
from real_vit.pixels import pixel_values
from real_vit.tasks import TASKS
from reporting import write_results
from transformers import PreTrainedModel

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.methods import method_of
from optimum_snp.models import SNPModel
from optimum_snp.plan.sizes import Part
from optimum_snp.planning.decide import make_plan
from optimum_snp.reshaping.select import weight_of
from optimum_snp.structure import describe


logger = logging.getLogger("proving_ground")

PARTS = {"Q/K": "qk_sparsity", "V": "v_sparsity", "MLP": "mlp_sparsity", "width": "hidden_sparsity"}
PACKAGES = ("optimum-snp", "torch", "transformers", "numpy", "torch-pruning")
TAYLOR_IMAGES = 32  # of one backward pass


@dataclass(frozen=True)
class Subject:
    """What is pruned, with all that a method may use of it.

    Attributes:
        pruner: Of the dense model, calibrated; it stays for the next cell.
        source: The dense model as transformers has it.
        images: The pixel values that it is calibrated on.
    """

    pruner: SNPPruner
    source: PreTrainedModel
    images: torch.Tensor


Prune = Callable[[Subject, PruningPlan], SNPModel]


@dataclass(frozen=True)
class Method:
    """One column.

    Attributes:
        prune: From a subject and a plan to a model of its sizes.
        parts: The parts that it has rules for.
        ties_attention: Whether queries, keys and values must have one size.
    """

    prune: Prune
    parts: set[Part] = field(default_factory=lambda: set(Part))
    ties_attention: bool = False

    def can_follow(self, plan: PruningPlan) -> bool:
        tied = all(block.after["qk_head_dim"] == block.after["v_head_dim"] for block in plan.blocks)
        return pruned_parts(plan) <= self.parts and (tied or not self.ties_attention)


def by_magnitude(subject: Subject, plan: PruningPlan) -> SNPModel:
    """Keeps the neurons with the largest weights."""
    dense = subject.pruner.model
    blocks = describe(dense).blocks
    mlp = [l2_norm(weight_of(dense, block.up)) for block in blocks]
    query_key = [
        l2_norm(torch.cat([weight_of(dense, layer) for layer in (block.query, block.key)], dim=1)).view(
            block.num_attention_heads, -1
        )
        for block in blocks
    ]
    plan = plan_of_sizes(dense, plan, mlp=mlp, query_key=query_key)
    return method_of(plan.config).reshape(dense, plan)


def by_baseline(prune: Callable[..., SNPModel], **options: Any) -> Prune:
    """A baseline, from the statistics of our calibration, which are in main memory."""
    return lambda subject, plan: prune(
        copy.deepcopy(subject.pruner.model).cpu(), subject.pruner.statistics, plan, **options
    )


def by_snapvit(subject: Subject, plan: PruningPlan) -> SNPModel:
    """SnapViT's scores, which need images instead of our statistics."""
    return snapvit.prune(subject.pruner.model, subject.images, plan)


def by_torch_pruning(importance: str) -> Prune:
    """Torch-Pruning's library."""

    def prune(subject: Subject, plan: PruningPlan) -> SNPModel:
        images = subject.images[:TAYLOR_IMAGES]
        with torch.no_grad():  # not in inference mode: the loss keeps the classes for its backward pass
            classes = subject.source(images).logits.argmax(-1)
        return prune_with_torch_pruning(subject.source, plan, importance, images, classes)

    return prune


def by_ours(method: str, **options: Any) -> Prune:
    """One of our methods, at the sizes of the plan; its own choice of neurons."""

    def prune(subject: Subject, plan: PruningPlan) -> SNPModel:
        pruner = subject.pruner
        fields = {**plan.config.to_dict(), "method": method, **options}
        config = SNPConfig.from_dict(fields)
        chosen = copy.copy(plan)
        if method != plan.config.method:
            scores = method_of(config).score(pruner.model, pruner.statistics, config)
            chosen = make_plan(pruner.model, scores, config, sizes=sizes_of(plan))
        chosen.config = config
        return pruner.copy().prune(chosen)  # the calibrated one stays for the next cell

    return prune


METHODS = {
    "magnitude": Method(by_magnitude),
    "SnapViT": Method(by_snapvit, snapvit.PARTS),
    "VBP": Method(by_baseline(vbp.prune), vbp.PARTS),
    "CORP": Method(by_baseline(corp.prune), corp.PARTS),
    "NuWa": Method(by_baseline(nuwa.prune), nuwa.PARTS),
    "CORP + NuWa": Method(by_baseline(corp.prune, with_values=True), corp.PARTS | nuwa.PARTS),
    "snp": Method(by_ours("snp", reconstruction_copies=None)),
    "snp-refit": Method(by_ours("snp-refit", reconstruction=False, reconstruction_copies=None)),
    "closed form": Method(by_ours("projection", reconstruction=False, reconstruction_copies=None)),
    "snp + reconstruction": Method(by_ours("snp", reconstruction=True)),
    "projection": Method(by_ours("projection")),
}
if importlib.util.find_spec("torch_pruning"):
    METHODS["TP magnitude"] = Method(by_torch_pruning("magnitude"), ties_attention=True)
    METHODS["TP Taylor"] = Method(by_torch_pruning("taylor"), ties_attention=True)


def rows_of(args: argparse.Namespace) -> dict[str, SNPConfig]:
    """What is asked for in every row."""
    frozen = [] if args.width else ["hidden_sparsity"]
    layout, ending = ("native", ", one size") if args.uniform else ("snp", "")
    rows = {
        f"FLOPs {budget:.0%}{ending}": SNPConfig(
            target_flops=budget,
            frozen_parts=frozen,
            layout=layout,
            seed=args.seed,
            reconstruction_copies=args.copies,
        )
        for budget in args.budgets
    }
    for part in args.parts:
        name, _, share = part.partition("=")
        rows[f"{name} -{float(share):.0%}"] = SNPConfig(**{PARTS[name]: float(share)}, seed=args.seed)
    return rows


def run_task(ground: Ground, args: argparse.Namespace) -> dict[str, Any]:
    """All rows and methods on one task."""
    pruner = SNPPruner(ground.dense)
    subject = Subject(pruner, ground.source, pixel_values(ground.calibration[: args.images]).to(args.device))
    start = time.perf_counter()
    pruner.calibrate(subject.images, args.images)
    report: dict[str, Any] = {"task": ground.name, "calibration_seconds": time.perf_counter() - start}
    images, labels = ground.measured(args.split, args.max_images if args.split == "test" else None)
    start = time.perf_counter()
    precision = torch.autocast(args.device, torch.bfloat16, enabled=args.bf16)
    with precision:
        dense = outputs_of(ground.dense, images)
    report |= {"num_images": len(images), "forward_seconds_per_image": (time.perf_counter() - start) / len(images)}
    report["dense"] = compare(dense, dense, labels)
    report["rows"] = {}
    for name, config in rows_of(args).items():
        start = time.perf_counter()
        plan = pruner.plan(config)
        row = {"planning_seconds": time.perf_counter() - start, "flops": plan.macs_after / plan.macs_before}
        row["methods"] = {}
        for method in args.methods:
            if METHODS[method].can_follow(plan):
                with precision:
                    row["methods"][method] = run_method(METHODS[method], subject, plan, dense, images, labels)
                logger.info("%s, %s, %s: %s", ground.name, name, method, row["methods"][method])
        report["rows"][name] = row
    return report


def run_method(
    method: Method,
    subject: Subject,
    plan: PruningPlan,
    dense: Outputs,
    images: torch.Tensor,
    labels: torch.Tensor | None,
) -> dict[str, float | None]:
    """One cell."""
    start = time.perf_counter()
    pruned = method.prune(subject, plan)
    seconds = time.perf_counter() - start
    return compare(outputs_of(pruned, images), dense, labels) | {"pruning_seconds": seconds}


def format_report(report: dict[str, Any], methods: list[str]) -> str:
    """A Markdown table per task: accuracy (agreement where there are no labels), then KL and feature error."""
    accuracy = report["dense"].get("accuracy")
    title = f"**{report['task']}**, {report['num_images']} images"
    title += "" if accuracy is None else f", dense accuracy {accuracy:.1%}"
    lines = [title, "", f"| row | planning | {' | '.join(methods)} |", "|---|---:|" + "---:|" * len(methods)]
    for name, row in report["rows"].items():
        cells = [_cell(row["methods"].get(method)) for method in methods]
        lines.append(f"| {name} | {row['planning_seconds']:.0f} s | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(result: dict[str, float | None] | None) -> str:
    if result is None:
        return "\N{EN DASH}"
    share = result.get("accuracy", result["agreement"])
    error = result["feature_error"]
    of_features = "\N{EN DASH}" if error is None else f"{error:.2f}"
    return f"{share:.1%}, KL {result['kl']:.3f}, {of_features}, {result['pruning_seconds']:.0f} s"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ground_parser(__doc__, "results/proving_ground", tasks=TASKS, default=["digits", "stamps"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.75, 0.5, 0.3, 0.2], help="shares of FLOPs left")
    parser.add_argument("--parts", nargs="*", default=[], metavar="PART=SHARE", help="such as MLP=0.5")
    parser.add_argument("--uniform", action="store_true", help="budgets choose one size for all blocks")
    parser.add_argument("--width", action="store_true", help="let budgets take from the residual width too")
    parser.add_argument("--images", type=int, default=192, help="unlabelled images (default: %(default)s)")
    parser.add_argument("--copies", type=int, help="of each for the reconstruction (default: what few images get)")
    parser.add_argument("--split", choices=["held-out", "test"], default="test", help="images that are measured")
    parser.add_argument("--max-images", type=int, help="measure on a random choice of so many test images")
    parser.add_argument("--bf16", action="store_true", help="prune and measure with networks in bfloat16")
    parser.add_argument("--seed", type=int, default=42)
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    reports = [run_task(load_ground(args.ground, name, device=args.device), args) for name in args.tasks]
    tables = "\n".join(format_report(report, args.methods) for report in reports)
    write_results(args, "proving_ground", tables, {"tasks": reports}, PACKAGES)
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())

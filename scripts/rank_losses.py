"""Do the losses that budgets weigh rank as what pruning does to a real model, and do they add up?

    python scripts/prepare_real_vit.py
    python scripts/rank_losses.py --tasks digits stamps

Single parts of single blocks at shares of a half and three quarters, single heads and single blocks; and joint plans
of equal FLOPs, drawn by budgets whose losses are multiplied by random factors. Predicted is the loss, or the sum of
losses; measured, on images that no method saw, the squared change of the logits and the KL divergence. For each kind:
the rank correlation (Spearman) of predicted with measured, and the median of measured by predicted squared change.
Nothing is trained, and no label is seen. Writes `rank_losses.md` (also printed) and `rank_losses.json`.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from real_vit.arguments import ground_parser, parse
from real_vit.ground import Outputs, compare, load_ground, outputs_of
from real_vit.pixels import pixel_values
from reporting import write_results

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.losses import Losses
from optimum_snp.methods import method_of
from optimum_snp.plan.sizes import Part, Sizes, dense_sizes, kept_size
from optimum_snp.planning.budget import allocate
from optimum_snp.planning.decide import make_plan
from optimum_snp.planning.size_costs import SizeCosts
from optimum_snp.planning.whole_parts import compute_whole_losses
from optimum_snp.pruning import build_pruned
from optimum_snp.reconstruction import compensated_losses
from optimum_snp.structure import block_sizes


logger = logging.getLogger("rank_losses")

PARTS = {"Q/K": Part.QUERY_KEY, "V": Part.VALUE, "MLP": Part.MLP, "width": Part.WIDTH}
SHARES = (0.5, 0.75)
PACKAGES = ("optimum-snp", "torch", "transformers", "numpy")
SPREAD = 1.0  # of the logarithms of the random factors


class Subject:
    """A calibrated model, with the scores and losses of all its parts."""

    def __init__(self, pruner: SNPPruner, args: argparse.Namespace):
        self.pruner, self.model, self.statistics = pruner, pruner.model, pruner.statistics
        self.config = SNPConfig(target_flops=args.budget, method=args.method)
        self.method = method_of(self.config)
        self.scores = self.method.score(self.model, self.statistics, self.config)
        self.losses = self.method.loss(self.model, self.statistics, self.scores)
        self.sizes = dense_sizes(self.model.config)
        self.batches = pruner.calibration_images.batches if args.reconstruct else None

    def plan(self, sizes: Sizes) -> PruningPlan:
        return make_plan(self.model, self.scores, self.config, sizes=sizes)

    def predicted(self, sizes: Sizes) -> float:
        """The sum of the losses of all parts."""
        return sum(float(self.losses.curve(slot)[size]) for slot, size in sizes.items())

    def single_parts(self, blocks: list[int]) -> Iterator[tuple[str, float, PruningPlan]]:
        """The kind, the loss and the plan of one part of one block after the other."""
        for name, part in PARTS.items():
            for slot, size in self.sizes.items():
                if slot[0] is part and (part is Part.WIDTH or slot[1] in blocks):
                    for share in (0.05, 0.1, 0.2, 0.3) if part is Part.WIDTH else SHARES:
                        sizes = {**self.sizes, slot: kept_size(size, share, 1)}
                        yield name, self.predicted(sizes), self.plan(sizes)

    def whole_parts(self, blocks: list[int]) -> Iterator[tuple[str, float, PruningPlan]]:
        """The same of heads and of blocks."""
        losses = compensated_losses(self.model, self.batches()) if self.batches else None
        whole = compute_whole_losses(self.model, self.statistics, self.scores, self.config, losses)
        heads = [block["num_attention_heads"] for block in block_sizes(self.model.config)]
        for block in blocks:
            shares = [1 / count if index == block and count > 1 else 0.0 for index, count in enumerate(heads)]
            plan = self.pruner.plan(SNPConfig(head_sparsity=shares, method=self.config.method))
            yield "heads", float(whole.heads[block][-2]), plan
            plan = self.pruner.plan(SNPConfig(dropped_blocks=[block], method=self.config.method))
            yield "blocks", whole.blocks[block], plan

    def joint_plans(self, count: int, seed: int) -> Iterator[tuple[str, float, PruningPlan]]:
        """Plans of equal FLOPs, the first by the losses as they are."""
        generator, costs = torch.Generator().manual_seed(seed), SizeCosts(self.model, "macs")
        minimum = {slot: size if slot[0] is Part.WIDTH else 1 for slot, size in self.sizes.items()}
        for number in range(count):

            def scaled(curves: list[torch.Tensor], spread: float = SPREAD if number else 0.0) -> list[torch.Tensor]:
                return [curve * (spread * torch.randn((), generator=generator)).exp() for curve in curves]

            of_parts = (self.losses.query_key, self.losses.value, self.losses.mlp, self.losses.widths)
            losses = Losses(*map(scaled, of_parts))
            sizes = allocate(costs, losses, self.config.target_flops * costs.total(costs.sizes), minimum, 8)
            yield "joint", self.predicted(sizes), self.plan(sizes)


def measure(subject: Subject, plan: PruningPlan, images: torch.Tensor, dense: Outputs) -> dict[str, float]:
    """What a plan does to the outputs."""
    batches = subject.batches() if subject.batches else None
    outputs = outputs_of(build_pruned(subject.model, plan, subject.statistics, batches), images)
    change = outputs.logits - dense.logits
    change = change - change.mean(dim=-1, keepdim=True)
    return {"change": float(change.square().sum(dim=-1).mean()), "kl": compare(outputs, dense)["kl"]}


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's, of distinct numbers."""
    ranks = torch.tensor([first, second], dtype=torch.float64).argsort().argsort().double()
    return float(torch.corrcoef(ranks)[0, 1])


def run_task(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """All kinds of plans on one task."""
    ground = load_ground(args.ground, name, device=args.device)
    calibration = pixel_values(ground.calibration[: args.images])
    pruner = SNPPruner(ground.dense)
    pruner.calibrate(calibration, args.images)
    subject = Subject(pruner, args)
    images = ground.held_out[: args.max_images]
    dense = outputs_of(ground.dense, images)
    blocks = args.blocks if args.blocks is not None else range(len(block_sizes(ground.dense.config)))
    cases = [*subject.single_parts(blocks), *subject.joint_plans(args.joint, args.seed)]
    cases += [] if args.no_whole else subject.whole_parts(blocks)
    rows: dict[str, list[dict[str, float]]] = {}
    for kind, predicted, plan in cases:
        row = {"predicted": predicted, **measure(subject, plan, images, dense)}
        logger.info("%s, %s: %s", name, kind, row)
        rows.setdefault(kind, []).append(row)
    return {"task": name, "num_images": len(images), "rows": rows}


def format_report(report: dict[str, Any]) -> str:
    """A Markdown table per task."""
    lines = [f"**{report['task']}**, {report['num_images']} images", ""]
    lines += ["| kind | plans | rank correlation, change | KL | measured / predicted |", "|---|---:|---:|---:|---:|"]
    for kind, rows in report["rows"].items():
        predicted, change, kl = ([row[name] for row in rows] for name in ("predicted", "change", "kl"))
        ratio = torch.tensor([after / max(before, 1e-12) for after, before in zip(change, predicted, strict=True)])
        correlations = f"{rank_correlation(predicted, change):.2f} | {rank_correlation(predicted, kl):.2f}"
        lines.append(f"| {kind} | {len(rows)} | {correlations} | {float(ratio.median()):.2g} |")
    return "\n".join([*lines, ""])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ground_parser(__doc__, "results/rank_losses", tasks=["digits", "stamps"], default=["digits", "stamps"])
    parser.add_argument("--method", default="projection", choices=["snp", "snp-refit", "projection"])
    parser.add_argument("--images", type=int, default=64, help="unlabelled images (default: %(default)s)")
    parser.add_argument("--max-images", type=int, default=64, help="measured images (default: %(default)s)")
    parser.add_argument("--blocks", nargs="+", type=int, help="whose parts are pruned alone (default: all)")
    parser.add_argument("--budget", type=float, default=0.5, help="share of the FLOPs that joint plans leave")
    parser.add_argument("--joint", type=int, default=20, help="joint plans (default: %(default)s)")
    parser.add_argument("--no-whole", action="store_true", help="leave heads and blocks out")
    parser.add_argument("--reconstruct", action="store_true", help="measure what reconstruction leaves of the change")
    parser.add_argument("--seed", type=int, default=0)
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    reports = [run_task(name, args) for name in args.tasks]
    tables = "\n".join(map(format_report, reports))
    write_results(args, "rank_losses", tables, {"tasks": reports}, PACKAGES)
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())

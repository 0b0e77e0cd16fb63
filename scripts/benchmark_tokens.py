"""Tokens, neurons, or both within one budget, on the real ViT of `prepare_real_vit.py`; nothing is trained.

    python scripts/prepare_real_vit.py
    python scripts/benchmark_tokens.py --tasks stamps digits --budgets 0.5 0.35

For every budget of multiply-accumulates: neurons alone, tokens alone (the least share of them that fits), shares of
the tokens given by hand with the rest from neurons, and what `token_sparsity="auto"` chooses. Cells are as in
`proving_ground.py`: accuracy (agreement with the dense model on images without labels), KL, error of the features.
Writes `tokens.md` (also printed) and `tokens.json`.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from prepare_real_vit import OUTPUT
from real_vit.ground import Ground, Outputs, compare, load_ground, outputs_of
from real_vit.pixels import pixel_values
from reporting import write_results

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.plan.tokens import merged_tokens
from optimum_snp.planning.tokens import costs_with_tokens
from optimum_snp.structure.costs import count_macs


logger = logging.getLogger("benchmark_tokens")

PACKAGES = ("optimum-snp", "torch", "transformers", "numpy")


def run_task(ground: Ground, args: argparse.Namespace) -> dict[str, Any]:
    """All rows of one task."""
    pruner = SNPPruner(ground.dense)
    pruner.calibrate(pixel_values(ground.calibration[: args.images]), args.images)
    images, labels = ground.measured(args.split, args.max_images)
    dense = outputs_of(ground.dense, images)
    report: dict[str, Any] = {"task": ground.name, "num_images": len(images), "rows": {}}
    report["dense"] = compare(dense, dense, labels)
    for budget in args.budgets:
        options = {"target_flops": budget, "frozen_parts": ["hidden_sparsity"]}
        ways = {"neurons": options}
        share = least_share(pruner, budget)
        if share is not None:
            ways["tokens"] = {"token_sparsity": share, "reconstruction": not args.no_reconstruction}
        ways |= {f"{share:.0%} of the tokens": {**options, "token_sparsity": share} for share in args.shares}
        ways["auto"] = {**options, "token_sparsity": "auto"}
        report["rows"][f"{budget:.0%}"] = row = {}
        for way, config in ways.items():
            if args.no_reconstruction:
                config = {**config, "reconstruction": False}
            try:
                row[way] = measure(pruner, SNPConfig(**config), images, labels, dense)
            except ValueError as error:  # the budget leaves no room for so many tokens
                logger.info("%s", error)
                continue
            logger.info("%s, %s, %s: %s", ground.name, f"{budget:.0%}", way, row[way])
    return report


def measure(
    pruner: SNPPruner, config: SNPConfig, images: torch.Tensor, labels: torch.Tensor | None, dense: Outputs
) -> dict[str, Any]:
    """One cell."""
    pruner = pruner.copy()
    plan = pruner.plan(config)
    merged = [block.merged_tokens for block in plan.blocks]
    found = compare(outputs_of(pruner.prune(plan), images), dense, labels)
    return found | {"flops": plan.macs_after / plan.macs_before, "merged_tokens": merged}


def least_share(pruner: SNPPruner, budget: float) -> float | None:
    """The least share of the tokens, in steps of a hundredth, whose merging alone fits the budget."""
    model = pruner.model
    blocks = list(range(model.config.num_hidden_layers))
    for hundredth in range(1, 96):
        try:
            merged = merged_tokens(hundredth / 100, model.config, blocks)
        except ValueError:  # so many the blocks cannot merge
            return None
        costs = costs_with_tokens(model, merged, "macs")
        if costs.total(costs.sizes) <= budget * count_macs(model):
            return hundredth / 100
    return None


def format_report(report: dict[str, Any]) -> str:
    accuracy = report["dense"].get("accuracy")
    title = f"**{report['task']}**, {report['num_images']} images"
    title += "" if accuracy is None else f", dense accuracy {accuracy:.1%}"
    lines = [title, "", "| FLOPs left | what goes | tokens merged | accuracy | KL | feature error |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for budget, ways in report["rows"].items():
        for way, cell in ways.items():
            lines.append(
                f"| {budget} | {way} | {sum(cell['merged_tokens'])} | {cell.get('accuracy', cell['agreement']):.1%} "
                f"| {cell['kl']:.4f} | {cell['feature_error']:.3f} |"
            )
    return "\n".join([*lines, ""])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("results/tokens"), help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", default=["digits", "stamps"], choices=["digits", "stamps", "textures"])
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.75, 0.5, 0.35, 0.25])
    parser.add_argument("--shares", nargs="*", type=float, default=[], help="of the tokens, by hand")
    parser.add_argument("--images", type=int, default=128, help="unlabelled images (default: %(default)s)")
    parser.add_argument("--split", choices=["held-out", "test"], default="test", help="images that are measured")
    parser.add_argument("--max-images", type=int, default=500, help="images to measure on (default: %(default)s)")
    parser.add_argument("--no-reconstruction", action="store_true", help="the closed form alone")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    reports = [run_task(load_ground(args.ground, name), args) for name in args.tasks]
    tables = "\n".join(format_report(report) for report in reports)
    write_results(args, "tokens", tables, {"tasks": reports}, PACKAGES)
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())

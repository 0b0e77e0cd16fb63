"""What minutes of training on unlabelled images give back, on a task of the proving ground.

    python scripts/prepare_real_vit.py
    python scripts/benchmark_recovery.py --tasks digits --budgets 0.5 0.3 0.2 --minutes 1 5

Every run starts anew from the pruned model, since the schedule follows the minutes. Measured before and after:
accuracy on the test, agreement with the dense model and mean KL divergence from its predictions (nats). No label is
seen. Writes `recovery.md` (also printed) and `recovery.json`, after every run.
"""

import argparse
import logging
import sys
import tempfile
from typing import Any

import torch
from real_vit.arguments import ground_parser, parse
from real_vit.ground import Ground, compare, load_ground, outputs_of
from real_vit.pixels import pixel_values
from real_vit.tasks import TASKS
from reporting import write_results

from optimum_snp import SNPConfig, SNPPruner


logger = logging.getLogger("benchmark_recovery")

PACKAGES = ("optimum-snp", "torch", "transformers", "accelerate", "numpy")


def run_task(ground: Ground, args: argparse.Namespace, report: dict[str, Any]) -> None:
    """All budgets, methods, numbers of images and minutes on one task; rows are added to the report."""
    images, labels = ground.measured("test", args.max_images)
    dense = outputs_of(ground.dense, images)
    report["tasks"][ground.name] = compare(dense, dense, labels)
    pruner = SNPPruner(ground.dense)
    pruner.calibrate(pixel_values(ground.calibration[: args.images]), args.images)
    for budget in args.budgets:
        for method in args.methods:
            config = SNPConfig(target_flops=budget, frozen_parts=["hidden_sparsity"], method=method, seed=args.seed)
            pruned = pruner.copy()
            pruned.prune(config)
            add_row(report, args, ground.name, budget, method, 0, 0, compare_model(pruned, images, dense, labels))
            for num_images in args.recovery_images:
                for minutes in args.minutes:
                    recovered = pruned.copy()
                    with tempfile.TemporaryDirectory() as folder:
                        recovery = recovered.recover(
                            pixel_values(ground.calibration[args.images : args.images + num_images]),
                            minutes,
                            num_samples=num_images,
                            batch_size=args.batch_size,
                            output_dir=folder,
                            seed=args.seed,
                        )
                    logger.info("%s", recovery)
                    result = compare_model(recovered, images, dense, labels)
                    add_row(report, args, ground.name, budget, method, num_images, minutes, result)


def compare_model(pruner: SNPPruner, images: torch.Tensor, dense: Any, labels: torch.Tensor) -> dict[str, Any]:
    """The model at its present stage beside the dense one."""
    return compare(outputs_of(pruner.model, images), dense, labels)


def add_row(report: dict[str, Any], args: argparse.Namespace, *row: Any) -> None:
    """Keeps one run, and writes all so far."""
    report["rows"].append(row)
    logger.info("%s", row)
    write_results(args, "recovery", format_report(report), report, PACKAGES)


def format_report(report: dict[str, Any]) -> str:
    """A Markdown table."""
    lines = [f"**{name}**: dense accuracy {dense['accuracy']:.1%}" for name, dense in report["tasks"].items()]
    lines += ["", "| task | FLOPs | method | images | minutes | accuracy | agreement | KL |"]
    lines += ["|---|---:|---|---:|---:|---:|---:|---:|"]
    for task, budget, method, num_images, minutes, result in report["rows"]:
        cells = [f"{result['accuracy']:.1%}", f"{result['agreement']:.1%}", f"{result['kl']:.3f}"]
        lines.append(f"| {task} | {budget:.0%} | {method} | {num_images} | {minutes:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ground_parser(__doc__, "results/recovery", tasks=TASKS, default=["digits"])
    parser.add_argument("--methods", nargs="+", default=["projection"], choices=["snp", "snp-refit", "projection"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.3, 0.2], help="shares of FLOPs left")
    parser.add_argument("--images", type=int, default=256, help="to calibrate on (default: %(default)s)")
    parser.add_argument("--recovery-images", nargs="+", type=int, default=[512], help="to train on (default: 512)")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0, 5.0], help="default: 1 and 5")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--max-images", type=int, help="measure on a random choice of so many test images")
    parser.add_argument("--seed", type=int, default=42)
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    report: dict[str, Any] = {"tasks": {}, "rows": []}
    for name in args.tasks:
        run_task(load_ground(args.ground, name, device=args.device), args, report)
    print(format_report(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Neurons alone or with tokens within one budget, on the demo's DeiT (65 tokens); nothing is trained after pruning.

    optimum-cli snp demo --architecture deit --output demo-output/deit
    python scripts/benchmark_tokens_demo.py demo-output/deit/dense

Cells are as in `benchmark_tokens.py`, on the demo's 1,000 test digits. Writes `tokens_demo.md` (also printed) and
`tokens_demo.json`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from benchmark_tokens import PACKAGES, format_task
from real_vit.ground import Outputs, compare
from reporting import write_results

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.demo.data import load_digits
from optimum_snp.models import SNPModel


WAYS: dict[str, dict[str, Any]] = {"neurons": {}, "auto": {"token_sparsity": "auto"}}


def pixel_values(pruner: SNPPruner, digits: datasets.Dataset) -> torch.Tensor:
    """`[N, 3, 32, 32]`, as the demo's models read them."""
    images = [image.convert("RGB") for image in digits["image"]]
    return pruner.image_processor(images, return_tensors="pt")["pixel_values"]


@torch.inference_mode()
def outputs_of(model: SNPModel, images: torch.Tensor) -> Outputs:
    """The logits, also in place of features, which the budget is free to rotate."""
    logits = torch.cat([model(batch).logits for batch in images.split(100)])
    return Outputs(logits, logits)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, the dense model first."""
    train, test = load_digits()
    pruner = SNPPruner.from_pretrained(args.model)
    images, labels = pixel_values(pruner, test), torch.tensor(test["label"])
    dense = outputs_of(pruner.model, images)
    rows: list[dict[str, Any]] = [
        {"task": "demo's DeiT", "num_images": len(images), "way": "dense", **compare(dense, dense, labels)}
    ]
    for seed in range(args.seeds):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: args.images]
        pruner.calibrate(pixel_values(pruner, train.select(order.tolist())), args.images)
        for budget in args.budgets:
            for way, options in WAYS.items():
                pruned = pruner.copy()
                plan = pruned.plan(SNPConfig(target_flops=budget, **options))
                found = compare(outputs_of(pruned.prune(plan), images), dense, labels)
                merged = [block.merged_tokens for block in plan.blocks]
                rows.append({"way": way, "budget": budget, "seed": seed, "merged_tokens": merged, **found})
    return rows


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder of the dense model")
    parser.add_argument("--output", type=Path, default=Path("results/tokens"), help="default: %(default)s")
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.75, 0.5, 0.35, 0.25])
    parser.add_argument("--images", type=int, default=64, help="unlabelled images (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of these images (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    rows = run(args)
    table = format_task(rows)
    write_results(args, "tokens_demo", table, {"rows": rows}, PACKAGES)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Rows of other papers, measured here on their own checkpoints: one command each for whoever has ImageNet.

    python scripts/published_rows.py deit-base-31 --imagenet /data/imagenet

The folder has `train/` and `val/` with a folder per class, named by WordNet's ids. Images to calibrate on are a random
choice from the first, without their labels; the accuracy is that on the second. Nothing is trained.

Rows (top-1 as the papers state it; sources in docs/real-model.md):

    deit-base-31    DeiT-B with 31 % fewer FLOPs                OB2C 76.27
    swin-small-mlp  Swin-S with half of all MLPs' neurons       OB2C 77.24
    deit-base-mlp   DeiT-B with half of all MLPs' neurons       OB2C 75.9, VBP 66.40
    deit-small-50   DeiT-S with half of its FLOPs
    deit-base-50    DeiT-B with half of its FLOPs
"""

import argparse
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reporting import collect_versions

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.data import load_image_folder


logger = logging.getLogger("published_rows")


@dataclass(frozen=True)
class Row:
    """What is asked of which model, and what others report for it.

    Attributes:
        model (`str`): A short name or Hub id.
        options (`dict`): Of [`SNPConfig`].
        reported (`dict[str, float]`): Top-1 accuracies of others, per cent.
    """

    model: str
    options: dict[str, Any]
    reported: dict[str, float]


ROWS = {
    "deit-base-31": Row("deit-base", {"target_flops": 0.69}, {"OB2C": 76.27}),
    "swin-small-mlp": Row("swin-small", {"mlp_sparsity": 0.5}, {"OB2C": 77.24}),
    "deit-base-mlp": Row("deit-base", {"mlp_sparsity": 0.5}, {"OB2C": 75.9, "VBP": 66.4}),
    "deit-small-50": Row("deit-small", {"target_flops": 0.5}, {}),
    "deit-base-50": Row("deit-base", {"target_flops": 0.5}, {}),
}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    row = ROWS[name]
    train, validation = (load_image_folder(args.imagenet, split) for split in ("train", "validation"))
    pruner = SNPPruner.from_pretrained(args.model or row.model)
    dense = pruner.evaluate(validation, batch_size=args.batch_size)
    logger.info("%s: dense %s", name, dense)
    start = time.perf_counter()
    pruner.calibrate(train, args.images, batch_size=args.batch_size, seed=args.seed)
    plan = pruner.plan(SNPConfig(**row.options, reconstruction=not args.closed_form, seed=args.seed))
    pruner.prune(plan)
    seconds = time.perf_counter() - start
    if args.save:
        pruner.save_pretrained(args.save)
    found = pruner.evaluate(validation, batch_size=args.batch_size)
    return {
        "row": name,
        "images": args.images,
        "num_test_images": len(validation),
        "reconstruction": not args.closed_form,
        "flops": plan.macs_after / plan.macs_before,
        "parameters": plan.parameters_after / plan.parameters_before,
        "dense_accuracy": dense["accuracy"],
        "accuracy": found["accuracy"],
        "reported": row.reported,
        "pruning_seconds": seconds,
        "versions": collect_versions(("optimum-snp", "torch", "transformers")),
    }


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--imagenet", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--model", help="another checkpoint of the same architecture, such as a folder")
    parser.add_argument("--images", type=int, default=1024, help="to calibrate on (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--closed-form", action="store_true", help="without reconstruction in sequence")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--save", type=Path, help="folder for the pruned model")
    parser.add_argument("--output", type=Path, default=Path("results/published_rows"), help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = measure(args.row, args)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{args.row}.json").write_text(json.dumps(report, indent=2) + "\n")
    reported = ", ".join(f"{name} {accuracy}" for name, accuracy in report["reported"].items())
    print(
        f"{args.row}: {100 * report['accuracy']:.2f} top-1 at {report['flops']:.1%} of the FLOPs, dense "
        f"{100 * report['dense_accuracy']:.2f}" + (f"; reported: {reported}" if reported else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

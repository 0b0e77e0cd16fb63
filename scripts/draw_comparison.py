"""The README's picture: a real pretrained ViT before and after pruning, compared as `optimum-cli snp compare` does.

    python scripts/prepare_real_vit.py --tasks digits
    python scripts/draw_comparison.py --output docs/real-model.png

Prunes the dense model of a task to the budgets on unlabelled images, with the defaults of this library, and compares
all on test images that no pruning saw. Prints the table, and writes the picture and, beside it, the JSON.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import torch
from prepare_real_vit import OUTPUT
from real_vit.ground import load_ground
from real_vit.pixels import pixel_values
from torch.utils.data import TensorDataset

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.comparison import compare
from optimum_snp.comparison.plot import plot_comparison


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--task", choices=["digits", "stamps"], default="digits", help="default: %(default)s")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.3], help="shares of the FLOPs left")
    parser.add_argument("--images", type=int, default=256, help="to calibrate on (default: %(default)s)")
    parser.add_argument("--test-images", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--backends", nargs="*", default=["eager", "onnxruntime"], help="default: eager onnxruntime")
    parser.add_argument("--output", type=Path, default=Path("real-model.png"), help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ground = load_ground(args.ground, args.task)
    chosen = torch.randperm(len(ground.test), generator=torch.Generator().manual_seed(0))[: args.test_images]
    test = TensorDataset(pixel_values(ground.test[chosen]), ground.labels[chosen])
    dense = args.ground / args.task / "model"
    with tempfile.TemporaryDirectory() as folder:
        models = {"dense": str(dense)}
        pruner = SNPPruner.from_pretrained(dense)
        pruner.calibrate(pixel_values(ground.calibration[: args.images]), num_samples=args.images)
        for budget in args.budgets:
            name = f"{budget:.0%} of the FLOPs"
            pruned = pruner.copy()
            pruned.prune(SNPConfig(target_flops=budget))
            pruned.save_pretrained(Path(folder, str(budget)))
            models[name] = str(Path(folder, str(budget)))
        comparison = compare(models, test, backends=args.backends, dataset_name=f"test {args.task}")
    plot_comparison(comparison, args.output)
    args.output.with_suffix(".json").write_text(json.dumps(comparison.to_dict(), indent=2) + "\n", encoding="utf-8")
    print(comparison)


if __name__ == "__main__":
    main()

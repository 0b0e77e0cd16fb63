"""What `target_latency` reaches: asked, predicted from the table of block latencies, and measured on the whole model.

    python scripts/benchmark_latency_targets.py --threads 1
    python scripts/benchmark_latency_targets.py --threads 1 --models deit-small --token-sparsity 0.5

Weights and images are random: latency depends on sizes only, and the plans need no more than losses to weigh. Prints a
table.
"""

import argparse
import os

import torch
from shapes import SHAPES, build_dense

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.configuration import LATENCY_BACKENDS


def main() -> None:
    """Prints one row per model, backend and target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["deit-small", "swin-tiny"])
    parser.add_argument("--backends", nargs="+", choices=LATENCY_BACKENDS, default=["eager", "onnxruntime"])
    parser.add_argument("--targets", nargs="+", type=float, default=[0.75, 0.5, 0.33])
    parser.add_argument("--token-sparsity", type=float, default=0.0, help="share of the patches that merges")
    parser.add_argument("--batch-size", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args()

    torch.manual_seed(0)
    print("| model | backend | asked | predicted | reached | FLOPs | load |\n|---|---|---:|---:|---:|---:|---:|")
    for name in args.models:
        pruner = SNPPruner.from_pretrained(build_dense(name))
        pruner.calibrate(torch.randn(16, 3, 224, 224), 16)
        for backend in args.backends:
            for target in args.targets:
                settings = {"batch_size": args.batch_size, "backend": backend, "threads": args.threads}
                options = {f"latency_{option}": value for option, value in settings.items()}
                config = SNPConfig(target_latency=target, token_sparsity=args.token_sparsity, **options)
                plan = pruner.plan(config)
                shares = [plan.latency[share] for share in ("asked", "predicted", "reached")]
                cells = [name, backend, *(f"{share:.1%}" for share in (*shares, plan.macs_after / plan.macs_before))]
                print("| " + " | ".join([*cells, f"{os.getloadavg()[0]:.1f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()

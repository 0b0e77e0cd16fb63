"""Latency of a shape pruned by every method, beside HF's dense model and ours; all in turn.

    python scripts/benchmark_speed.py --model deit-small --preset deit-small-2.0g
    python scripts/benchmark_speed.py --model swin-tiny

Weights and images are random, since time depends on shapes only. Without a preset every block loses half, and every
width a fifth. Prints a table: medians, and the ratio to HF's model.
"""

import argparse

import torch
from shapes import SHAPES, SHARES, build_dense

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.benchmarking import measure_latency
from optimum_snp.configuration import METHODS
from optimum_snp.presets import PRESETS
from optimum_snp.structure.costs import count_macs


NUM_RUNS = {1: 100, 8: 30}


def main() -> None:
    """Prints one row per batch size and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="deit-small", help="default: %(default)s")
    parser.add_argument("--preset", choices=PRESETS, help="sizes of the pruned models")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    source = build_dense(args.model)
    images = torch.randn(max(NUM_RUNS), 3, 224, 224)
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(images, len(images))
    models = {"HF, dense": source, "ours, dense": pruner.model}
    for method in METHODS:
        shares = (
            SNPConfig.from_preset(args.preset, method=method) if args.preset else SNPConfig(method=method, **SHARES)
        )
        models[method] = pruner.copy().prune(shares)
    macs = {name: count_macs(model) for name, model in models.items() if model is not source}

    print("| batch | model | GMACs | milliseconds | speed-up |\n|---|---|---|---|---|")
    for batch_size, num_runs in NUM_RUNS.items():
        latencies = measure_latency(models, images[:batch_size], num_runs=num_runs)
        for name, seconds in latencies.items():
            gmacs = macs.get(name, macs["ours, dense"]) / 1e9
            speed_up = latencies["HF, dense"] / seconds
            print(f"| {batch_size} | {name} | {gmacs:.2f} | {seconds * 1e3:.1f} | {speed_up:.2f} |")


if __name__ == "__main__":
    main()

"""Latency of a DeiT shape pruned to a preset's sizes by every method, beside HF's dense model; all in turn.

    python scripts/benchmark_speed.py --preset deit-small-2.0g --threads 1

Weights and images are random, since time depends on shapes only. Prints a table: medians, and the ratio to HF's model.
"""

import argparse
import copy

import torch
from benchmark_pruning_cost import SHAPES
from transformers import DeiTConfig, DeiTForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.benchmarking import measure_latency
from optimum_snp.configuration import METHODS
from optimum_snp.planning.presets import PRESETS


NUM_RUNS = {1: 100, 8: 30}


def main() -> None:
    """Prints one row per batch size and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="deit-small-2.0g", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    shape = SHAPES["-".join(args.preset.split("-")[:2])]
    source = DeiTForImageClassification(DeiTConfig(num_labels=1000, **shape)).eval()
    images = torch.randn(max(NUM_RUNS), 3, 224, 224)
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(images, len(images))
    models = {"HF, dense": source, "ours, dense": pruner.model}
    for method in METHODS:
        models[method] = copy.copy(pruner).prune(SNPConfig.from_preset(args.preset, method=method))

    print("| batch | model | milliseconds | speed-up |\n|---|---|---|---|")
    for batch_size, num_runs in NUM_RUNS.items():
        latencies = measure_latency(models, images[:batch_size], num_runs=num_runs)
        for name, seconds in latencies.items():
            print(f"| {batch_size} | {name} | {seconds * 1e3:.1f} | {latencies['HF, dense'] / seconds:.2f} |")


if __name__ == "__main__":
    main()

"""int8 on top of pruning: accuracy, size and speed of the demo's model beside fp32.

    python scripts/benchmark_int8.py path/to/demo/dense

The model is pruned by projection, without training, to half and to three tenths of its FLOPs on 64 unlabelled digits,
which int8 is calibrated on, too. Accuracies are those on the 1,000 test digits, as the runtime computes them; times
are medians of one thread at batch 8, all in turn, and speed-ups are over transformers' dense model in eager PyTorch.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from digits import Images, choose, load_digits, measure_accuracy

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.benchmarking.benchmark import benchmark
from optimum_snp.exporting.exported import ExportedModel


TARGETS = (None, 0.5, 0.3)
FORMATS = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
BATCH_SIZE = 8


def main() -> None:
    """Prints one row per model, runtime and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a dense model that was trained on the demo's digits")
    parser.add_argument("--num-runs", type=int, default=100, help="default: %(default)s")
    args = parser.parse_args()

    torch.set_num_threads(1)
    train_part, test_part = load_digits()
    images = choose(train_part, 64, seed=0).pixels
    with tempfile.TemporaryDirectory() as folder:
        models, cells = {"dense": args.model}, {}
        for target in TARGETS:
            pruner = SNPPruner.from_pretrained(args.model)
            if target is not None:
                pruner.prune(SNPConfig(target_flops=target), calibration_dataset=images)
            name = "dense" if target is None else f"{target:.0%} of the FLOPs"
            accuracy = measure_accuracy(pruner.model, test_part)
            for format, runtime in FORMATS.items():
                for dtype in ("fp32", "int8"):
                    path = Path(folder, f"{name}-{format}-{dtype}")
                    exported = pruner.export(path, format=format, dtype=dtype, calibration_dataset=images)
                    models[path.name] = path
                    size = sum(file.stat().st_size for file in path.glob(f"{Path(exported.file).stem}.*"))
                    found = accuracy_of(exported, path, test_part)
                    cells[path.name] = [name, runtime, dtype, f"{found:.1%}", f"{found - accuracy:+.1%}", size / 1e6]
        report = benchmark(models, batch_sizes=[BATCH_SIZE], num_runs=args.num_runs, memory=False)
    print(
        "| model | runtime | dtype | accuracy | against PyTorch | MB | speed-up |\n|---|---|---|---:|---:|---:|---:|"
    )
    for row in report.rows:
        if row.model in cells:
            *texts, size = cells[row.model]
            print(f"| {' | '.join([*texts, f'{size:.2f}', f'{row.speed_up:.2f}'])} |")


def accuracy_of(exported: ExportedModel, folder: Path, test_part: Images) -> float:
    """Share of images whose highest logit is that of their class."""
    run = exported.open(folder, num_threads=1)
    logits = np.concatenate([run(pixels.numpy())["logits"] for pixels in test_part.pixels.split(100)])
    return float((logits.argmax(-1) == test_part.labels.numpy()).mean())


if __name__ == "__main__":
    main()

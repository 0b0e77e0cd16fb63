"""Time and peak memory of calibration and pruning, beside one forward pass over the same images.

    python scripts/benchmark_pruning_cost.py --models deit-base swin-tiny --output results/pruning_cost
    python scripts/benchmark_pruning_cost.py --models deit-small --works calibration --num-images 64 256 1024

For every method: convert, calibrate, plan and prune with images of 224 px, for a dense model with random weights,
since time and memory depend on shapes only. Also calibration alone, with what the scores of SNP need, with second
moments as well, and with the sensitivities that budgets need as well; and planning from ready statistics. Every
measurement runs in a process of its own, because the peak of a process never falls; repeats take turns, so that a slow
spell of the machine meets all alike. Times are medians; CPU time, over all threads, is what to compare on a machine
that others use too.

Writes `pruning_cost.md` (the table, also printed) and `pruning_cost.json`.
"""

import argparse
import itertools
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from reporting import collect_versions
from shapes import SHAPES, SHARES, build_dense
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.configuration import METHODS


logger = logging.getLogger("benchmark_pruning_cost")

BATCH_SIZE = 16
FORWARD = "one forward pass"
# Calibration alone, with what it sums.
CALIBRATIONS = {
    "calibrate: scores": {"moments": False},
    "calibrate: scores, moments": {"sensitivities": False},
    "calibrate: scores, moments, sensitivities": {},
}
# Plans by a budget from statistics that are there.
PLANNING = "plan from statistics: half the FLOPs"
WORKS = {"calibration": tuple(CALIBRATIONS), "pruning": METHODS, "planning": (PLANNING,)}
MEASURED = ("seconds", "cpu_seconds", "peak", "start")
PACKAGES = ("optimum-snp", "torch", "transformers")
MEGABYTE = 2**20


def measure_here(shape: str, work: str, num_images: int, threads: int) -> dict[str, float]:
    """Does the work once in this process, which must be fresh.

    Returns:
        `dict[str, float]`: `seconds` and `cpu_seconds` of the work; in bytes `peak`, the most memory this process ever
        held, and `start`, the most it had held before the work.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_dense(shape)
    images = torch.randn(num_images, 3, 224, 224)
    with torch.inference_mode():
        model(images[:1])  # first calls are slow
    pruner = SNPPruner(model) if work in (*CALIBRATIONS, PLANNING) else None
    if work == PLANNING:
        pruner.calibrate(images, num_images, batch_size=BATCH_SIZE)
    start, wall, cpu = _peak_memory(), time.perf_counter(), time.process_time()
    if work == FORWARD:
        run_forward(model, images)
    elif work == PLANNING:
        pruner.plan(SNPConfig(target_flops=0.5))
    elif work in CALIBRATIONS:
        pruner.calibrate(images, num_images, batch_size=BATCH_SIZE, **CALIBRATIONS[work])
    else:
        run_pruning(model, images, work)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak": _peak_memory(), "start": start}


@torch.inference_mode()
def run_forward(model: PreTrainedModel, images: torch.Tensor) -> None:
    """All images once through the model."""
    for batch in images.split(BATCH_SIZE):
        model(batch)


def run_pruning(model: PreTrainedModel, images: torch.Tensor, method: str) -> None:
    """All that a user pays for once the model is loaded: conversion, calibration, plan and the pruned model."""
    config = SNPConfig(method=method, num_calibration_samples=len(images), **SHARES)
    SNPPruner(model).prune(config, calibration_dataset=images)


def _peak_memory() -> float:
    # Linux counts in kilobytes, macOS in bytes. On Linux a new process starts from the memory of its parent, which
    # is no more here than what every child needs to import the same packages.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_in_new_process(shape: str, work: str, num_images: int, args: argparse.Namespace) -> dict[str, float]:
    """[`measure_here`] in a process of its own.

    Raises:
        RuntimeError: If the process fails; the message holds what it printed.
    """
    command = [sys.executable, __file__, "--models", shape, "--child", work]
    command += ["--num-images", str(num_images), "--threads", str(args.threads)]
    process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if process.returncode:
        raise RuntimeError(f"Measuring {work} on {shape} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per shape, number of images and kind of work: medians, and every repeat."""
    works = (FORWARD, *(work for kind in args.works for work in WORKS[kind]))
    runs: dict[tuple[str, int, str], list[dict[str, float]]] = {
        key: [] for key in itertools.product(args.models, args.num_images, works)
    }
    turns = [key for _ in range(args.repeats) for key in runs]
    for shape, num_images, work in tqdm(turns, desc="Measuring", unit="process"):
        runs[shape, num_images, work].append(measure_in_new_process(shape, work, num_images, args))
    return [
        {
            "model": shape,
            "num_images": num_images,
            "work": work,
            **{name: statistics.median(run[name] for run in repeats) for name in MEASURED},
            "repeats": repeats,
        }
        for (shape, num_images, work), repeats in runs.items()
    ]


def format_table(records: list[dict[str, Any]]) -> str:
    """A markdown table; CPU time and memory also beside those of the forward pass."""
    forward = {(record["model"], record["num_images"]): record for record in records if record["work"] == FORWARD}
    lines = [
        "| model | images | work | time (s) | CPU time (s) | beside forward: time | CPU time | peak memory (MB) | "
        "beside forward |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        base = forward[record["model"], record["num_images"]]
        cells = (
            record["model"],
            str(record["num_images"]),
            record["work"],
            f"{record['seconds']:.1f}",
            f"{record['cpu_seconds']:.1f}",
            f"{record['seconds'] / base['seconds']:.2f}x",
            f"{record['cpu_seconds'] / base['cpu_seconds']:.2f}x",
            f"{record['peak'] / MEGABYTE:.0f}",
            f"{record['peak'] / base['peak']:.2f}x",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["deit-base", "swin-tiny"])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=["calibration", "pruning"])
    parser.add_argument("--output", type=Path, help="folder for table and JSON (default: only print)")
    parser.add_argument("--num-images", type=int, nargs="+", default=[64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.child:
        print(json.dumps(measure_here(args.models[0], args.child, args.num_images[0], args.threads)))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    records = measure_all(args)
    table = format_table(records)
    print(table)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "pruning_cost.md").write_text(table)
        settings = {name: getattr(args, name) for name in ("num_images", "repeats", "threads")}
        settings |= {"batch_size": BATCH_SIZE, "shares": SHARES}
        record = {"settings": settings, "versions": collect_versions(PACKAGES), "records": records}
        (args.output / "pruning_cost.json").write_text(json.dumps(record, indent=2) + "\n")
        logger.info("Written to %s.", args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whole heads and whole blocks removed without training: accuracy alone, and within budgets of FLOPs.

    pip install -e .[benchmark]
    make demo                                                  # trains the DeiT and the Swin
    python scripts/benchmark_heads_blocks.py --models demo-output/deit/dense demo-output/swin/dense

All from the same 64 unlabelled images. In brackets the mean squared change of the logits, as `benchmark_budgets.py`
measures it. "One head" of every block that has more than one; "heads" and "blocks" are those that the budget chooses.
"""

import logging
from typing import Any

import torch
from benchmark_budgets import Subject
from benchmark_one_shot import title
from digits import digits_parser, load_digits, measure_accuracy

from optimum_snp.configuration import AUTO, METHODS
from optimum_snp.structure import block_sizes


def removals(subject: Subject) -> dict[str, dict[str, Any]]:
    """What is removed, by the name of its row or column."""
    heads = [block["num_attention_heads"] for block in block_sizes(subject.dense.config)]
    one_head = [1 / count if count > 1 else 0.0 for count in heads]
    later = [share if index >= len(heads) // 2 else 0.0 for index, share in enumerate(one_head)]
    return {
        "nothing": {},
        "one head": {"head_sparsity": one_head},
        "one head, later half": {"head_sparsity": later},
        "half of the heads": {"head_sparsity": 0.5},
        "1 block": {"dropped_blocks": 1},
        "2 blocks": {"dropped_blocks": 2},
        "one head, 1 block": {"head_sparsity": one_head, "dropped_blocks": 1},
    }


def print_tables(subject: Subject, targets: list[float]) -> None:
    """Markdown; docs/budgets.md has some of the rows and columns."""
    options = removals(subject)
    accuracy = measure_accuracy(subject.dense, subject.test)
    print(f"**{title(subject.source, subject.dense)}**: dense accuracy {accuracy:.1%}\n")
    print("| removed | FLOPs left | " + " | ".join(f"`{method}`" for method in METHODS) + " |")
    print("|---|---:|" + "---:|" * len(METHODS))
    for name, option in list(options.items())[1:]:
        results = [subject.prune(method=method, **option) for method in METHODS]
        print(f"| {name} | {results[0]['flops']:.1%} | " + " | ".join(map(cell, results)) + " |", flush=True)
    for name in ("half of the heads", "one head, 1 block"):
        del options[name]
    options |= {"heads": {"head_sparsity": AUTO}, "blocks": {"dropped_blocks": AUTO}}
    print("\n| method | budget | " + " | ".join(options) + " |")
    print("|---|---:|" + "---:|" * len(options))
    for method in METHODS:
        for target in targets:
            results = [subject.prune(method=method, target_flops=target, **option) for option in options.values()]
            print(f"| `{method}` | {target:.0%} | " + " | ".join(map(cell, results)) + " |", flush=True)
    print()


def cell(result: dict[str, float]) -> str:
    """Accuracy in per cent and the change of the logits."""
    return f"{100 * result['accuracy']:.1f} ({result['change']:.2g})"


def main() -> None:
    """Prints the tables of all models."""
    parser = digits_parser(__doc__)
    parser.add_argument(
        "--targets", nargs="+", type=float, default=[0.7, 0.5, 0.35, 0.25], help="shares of the FLOPs that may remain"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    train, test = load_digits()
    for folder in args.models:
        print_tables(Subject(folder, train, test, args.num_calibration, args.seed), args.targets)


if __name__ == "__main__":
    main()

"""What time goes into, dense and planned: PyTorch's operators on one thread, and how much faster each got.

    python scripts/profile_operators.py --preset deit-small-1.3g

Weights and images are random. The models take turns, and of every call of an operator the shortest time of all passes
counts: the profiler's clock runs on while other work has the core. What pruning makes smaller in proportion to the
FLOPs gains their ratio; what it does not, such as attention maps whose number of heads stays, holds the whole back.
"""

import argparse
from collections import defaultdict

import torch
from benchmark_latency import plans
from shapes import build_dense
from torch import nn
from torch.profiler import ProfilerActivity, profile

from optimum_snp.families import convert
from optimum_snp.presets import PRESETS
from optimum_snp.structure.costs import count_macs


NUM_RUNS = 9
# What operators are, by what their names hold; the first that fits.
PARTS = {
    "linear layers": ("addmm", "mm", "linear"),
    "attention": ("attention", "softmax"),
    "GELU": ("gelu",),
    "norms": ("norm",),
    "patch embedding": ("conv",),
    "copies and padding": ("copy", "cat", "fill", "constant_pad", "clone", "contiguous"),
}


def main() -> None:
    """Prints a table with one row per kind of operator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="deit-small-1.3g", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randn(args.batch_size, 3, 224, 224)
    dense = build_dense(args.preset.rsplit("-", 1)[0])
    ours = convert(dense)
    models = {kind: type(ours)(config).eval() for kind, config in plans(ours, args.preset).items()}
    passes = [
        {kind: time_operators(each, images) for kind, each in {"dense": dense, **models}.items()}
        for _ in range(NUM_RUNS)
    ]
    times = {kind: milliseconds([each[kind] for each in passes]) for kind in passes[0]}

    print(f"| batch {args.batch_size}, ms | {' | '.join(times)} |\n|---|{'---:|' * len(times)}")
    for part in (*PARTS, "rest", "all"):
        before = times["dense"][part]
        cells = [f"{spent[part]:.1f} ({before / spent[part]:.2f}x)" for spent in times.values()]
        print(f"| {part} | {' | '.join(cells)} |")
    ratios = [count_macs(ours) / count_macs(each) for each in (ours, *models.values())]
    print(f"| FLOPs ratio | {' | '.join(f'{ratio:.2f}x' for ratio in ratios)} |")


@torch.inference_mode()
def time_operators(model: nn.Module, images: torch.Tensor) -> list[tuple[str, float]]:
    """The operators of one pass in their order, each with its own milliseconds."""
    model(images)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        model(images)
    return [(event.name, event.self_cpu_time_total / 1e3) for event in found.events()]


def milliseconds(passes: list[list[tuple[str, float]]]) -> dict[str, float]:
    """Of one pass, by part, from several passes of one model."""
    spent: dict[str, float] = defaultdict(float)
    for calls in zip(*passes, strict=True):
        name, shortest = min(calls, key=lambda call: call[1])
        part = next((part for part, names in PARTS.items() if any(word in name for word in names)), "rest")
        for each in (part, "all"):
            spent[each] += shortest
    return spent


if __name__ == "__main__":
    main()

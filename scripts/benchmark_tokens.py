"""Tokens, neurons, or both within one budget, on the real ViT of `prepare_real_vit.py`; nothing is trained.

    python scripts/prepare_real_vit.py
    python scripts/benchmark_tokens.py --tasks stamps digits textures --budgets 0.5 0.35 --seeds 3

For every budget of multiply-accumulates: neurons alone, tokens alone (the fewest that fit), what
`token_sparsity="auto"` chooses, and two ways of others to choose the tokens that merge, ToMe and PiToMe, with the
weights of the dense model. Accuracy is that on the test, agreement, KL and error of the features are those with the
dense model, as in `proving_ground.py`; a seed draws the images to calibrate on. Writes `tokens.md` (also printed) and
`tokens.json`, anew after every model.
"""

import argparse
import bisect
import itertools
import logging
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from baselines import pitome, tome
from real_vit.arguments import ground_parser, parse
from real_vit.ground import Ground, Outputs, compare, load_ground, outputs_of
from real_vit.pixels import pixel_values
from real_vit.tasks import TASKS
from reporting import write_results

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.plan.tokens import falling_counts
from optimum_snp.planning.tokens import costs_with_tokens
from optimum_snp.structure import num_mergeable_tokens
from optimum_snp.structure.costs import count_macs


logger = logging.getLogger("benchmark_tokens")

PACKAGES = ("optimum-snp", "torch", "transformers", "numpy")
BASELINES = {"ToMe": tome, "PiToMe": pitome}
WAYS = ("neurons", "tokens", "auto", *BASELINES)

# From the patches, the blocks, and how many patches are to go in all, to how many each block merges.
Counts = Callable[[int, int, int], list[int] | None]


def run_task(ground: Ground, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one task, the dense model first."""
    images, labels = ground.measured(args.split, args.max_images)
    dense = outputs_of(ground.dense, images)
    yield {"task": ground.name, "num_images": len(images), "way": "dense", **compare(dense, dense, labels)}
    for seed in range(args.seeds):
        order = torch.randperm(len(ground.calibration), generator=torch.Generator().manual_seed(seed))
        pruner = SNPPruner(ground.dense)
        pruner.calibrate(pixel_values(ground.calibration[order[: args.images]]), args.images)
        for budget in args.budgets:
            for way in args.ways:
                row = {"task": ground.name, "way": way, "budget": budget, "seed": seed}
                if seed and way in BASELINES:
                    continue  # they see no images
                try:
                    yield row | measure(pruner, way, budget, images, labels, dense, args)
                except ValueError as error:  # so little no blocks can leave
                    logger.info("%s: %s", row, error)


def measure(
    pruner: SNPPruner,
    way: str,
    budget: float,
    images: torch.Tensor,
    labels: torch.Tensor | None,
    dense: Outputs,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One row."""
    pruner = pruner.copy()
    options: dict[str, Any] = {"target_flops": budget, "frozen_parts": ["hidden_sparsity"]}
    if way == "auto":
        options["token_sparsity"] = "auto"
    elif way != "neurons":
        counts = BASELINES[way].counts if way in BASELINES else fewest_early
        options = {"token_sparsity": least_merged(pruner, budget, counts)}
    if args.no_reconstruction or way in BASELINES:
        options["reconstruction"] = False
    plan = pruner.plan(SNPConfig(**options))
    merged = [block.merged_tokens for block in plan.blocks]
    model = pruner.prune(plan)
    if way in BASELINES:
        BASELINES[way].install(model)
    found = compare(outputs_of(model, images), dense, labels)
    return found | {"flops": plan.macs_after / plan.macs_before, "merged_tokens": merged}


def fewest_early(num_patches: int, num_blocks: int, total: int) -> list[int] | None:
    """As a share of the tokens merges: most in the first block."""
    try:
        return falling_counts(num_patches, num_blocks, total / num_patches)
    except ValueError:
        return None


def least_merged(pruner: SNPPruner, budget: float, counts: Counts) -> list[float]:
    """The shares that the blocks merge if as few patches go as fit the budget without any neuron.

    Raises:
        ValueError: If the blocks cannot merge enough.
    """
    num_patches, num_blocks = num_mergeable_tokens(pruner.model.config), pruner.model.config.num_hidden_layers
    dense = count_macs(pruner.model)

    def fits(total: int) -> bool:
        merged = counts(num_patches, num_blocks, total)
        if merged is None:
            return True  # the end of the search
        costs = costs_with_tokens(pruner.model, merged, "macs")
        return costs.total(costs.sizes) <= budget * dense

    merged = counts(num_patches, num_blocks, bisect.bisect_left(range(num_patches), True, key=fits))
    if merged is None:
        raise ValueError("The blocks cannot merge so many tokens.")
    return [count / num_patches for count in merged]


def format_task(rows: list[dict[str, Any]]) -> str:
    """A table of the means over the seeds, with their standard deviations where there are several."""
    dense, *rows = rows
    accuracy = dense.get("accuracy")
    title = f"**{dense['task']}**, {dense['num_images']} images"
    title += "" if accuracy is None else f", dense accuracy {accuracy:.1%}"
    lines = [title, "", "| FLOPs left | what goes | tokens merged | of the dense accuracy | agreement | KL | runs |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for budget, way in dict.fromkeys((row["budget"], row["way"]) for row in rows):
        runs = [row for row in rows if (row["budget"], row["way"]) == (budget, way)]
        relative = "" if accuracy is None else _mean([run["accuracy"] / accuracy for run in runs], ".1%")
        cells = [
            " / ".join(dict.fromkeys(str(sum(run["merged_tokens"])) for run in runs)),
            relative,
            _mean([run["agreement"] for run in runs], ".1%"),
            _mean([run["kl"] for run in runs], ".4f"),
            str(len(runs)),
        ]
        lines.append(f"| {budget:.0%} | {way} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _mean(values: list[float], form: str) -> str:
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} \N{PLUS-MINUS SIGN} {statistics.stdev(values):{form}}"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ground_parser(__doc__, "results/tokens", tasks=TASKS, default=TASKS)
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.75, 0.5, 0.35, 0.25, 0.2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--images", type=int, default=128, help="unlabelled images (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="draws of these images (default: %(default)s)")
    parser.add_argument("--split", choices=["held-out", "test"], default="test", help="images that are measured")
    parser.add_argument("--max-images", type=int, default=500, help="images to measure on (default: %(default)s)")
    parser.add_argument("--no-reconstruction", action="store_true", help="the closed form alone")
    return parse(parser, argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    rows: list[dict[str, Any]] = []
    tables = ""
    grounds = (load_ground(args.ground, name, device=args.device) for name in args.tasks)
    for row in (row for ground in grounds for row in run_task(ground, args)):
        logger.info("%s", row)
        rows.append(row)
        by_task = [list(found) for _, found in itertools.groupby(rows, key=lambda row: row["task"])]
        tables = "\n".join(map(format_task, by_task))
        write_results(args, "tokens", tables, {"rows": rows}, PACKAGES)
    print(tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())

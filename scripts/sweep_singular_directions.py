"""How many singular directions, and weighted or not: accuracy after pruning query/key neurons only, without training.

    python scripts/sweep_singular_directions.py demo-output/deit/dense

prints the table of docs/singular-directions.md. One calibration pass serves all rows: the statistics hold every
direction.
"""

import argparse
from itertools import product

from digits import choose, load_digits, measure_accuracy
from tqdm.auto import tqdm

from optimum_snp import SNPConfig, SNPPruner


DIRECTIONS: tuple[int | float | None, ...] = (1, 2, 4, 8, 16, 0.5, 0.8, 0.9, 0.95, 0.99, None)
WEIGHTINGS = ("uniform", "energy")
SHARES = (0.25, 0.5, 0.75)


def main() -> None:
    """Prints one row per choice of directions, one column per weighting and share removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a model trained on the demo's digits")
    parser.add_argument("--seeds", type=int, default=3, help="choices of the 64 calibration images to average over")
    args = parser.parse_args()

    train, held_out = load_digits()
    dense = SNPPruner.from_pretrained(args.model)
    settings = list(product(DIRECTIONS, WEIGHTINGS, SHARES))
    accuracy = dict.fromkeys(settings, 0.0)
    print(f"dense: {measure_accuracy(dense.model, held_out):.1%}\n")
    progress = tqdm(total=len(settings) * args.seeds, desc="Sweeping")
    for seed in range(args.seeds):
        dense.calibrate(choose(train, 64, seed).pixels)
        for setting in settings:
            directions, weighting, share = setting
            config = SNPConfig(
                qk_sparsity=share, num_singular_directions=directions, singular_weighting=weighting, method="snp"
            )
            pruned = dense.copy().prune(config)  # the dense one stays calibrated
            accuracy[setting] += measure_accuracy(pruned, held_out) / args.seeds
            progress.update()
    progress.close()

    columns = list(product(WEIGHTINGS, SHARES))
    print("| directions | " + " | ".join(f"{weighting}, {share:.0%} removed" for weighting, share in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for directions in DIRECTIONS:
        name = "all" if directions is None else str(directions)
        if isinstance(directions, float):
            name = f"{directions:.0%} of the energy"
        cells = [f"{accuracy[directions, weighting, share]:.1%}" for weighting, share in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

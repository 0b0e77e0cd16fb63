"""How many singular directions, and weighted or not: accuracy after pruning query/key neurons only, without training.

    python scripts/sweep_singular_directions.py demo-output/dense

prints the table of docs/singular-directions.md. One calibration pass serves all rows: the statistics hold every
direction.
"""

import argparse

from tqdm.auto import tqdm

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.demo.data import load_digits


DIRECTIONS: tuple[int | float | None, ...] = (1, 2, 4, 8, 16, 0.5, 0.8, 0.9, 0.95, 0.99, None)
WEIGHTINGS = ("uniform", "energy")
SHARES = (0.25, 0.5, 0.75)


def main() -> None:
    """Prints one row per choice of directions, one column per weighting and share removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a model trained on the demo's digits")
    parser.add_argument("--seeds", type=int, default=3, help="choices of the 64 calibration images to average over")
    args = parser.parse_args()

    train_digits, held_out = load_digits()
    images = train_digits.remove_columns("label")
    accuracy = dict.fromkeys(((d, w, s) for d in DIRECTIONS for w in WEIGHTINGS for s in SHARES), 0.0)
    progress = tqdm(total=len(accuracy) * args.seeds, desc="Sweeping")
    dense = SNPPruner.from_pretrained(args.model)
    print(f"dense: {dense.evaluate(held_out)['accuracy']:.1%}\n")
    for seed in range(args.seeds):
        statistics = dense.calibrate(images, seed=seed)
        for directions, weighting, share in accuracy:
            config = SNPConfig(
                qk_sparsity=share, num_singular_directions=directions, singular_weighting=weighting, method="snp"
            )
            pruner = SNPPruner.from_pretrained(dense.model, image_processor=dense.image_processor)
            pruner.statistics = statistics
            pruner.prune(config)
            accuracy[directions, weighting, share] += pruner.evaluate(held_out)["accuracy"] / args.seeds
            progress.update()
    progress.close()

    columns = [(weighting, share) for weighting in WEIGHTINGS for share in SHARES]
    print("| directions | " + " | ".join(f"{weighting}, {share:.0%} removed" for weighting, share in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for directions in DIRECTIONS:
        name = "all" if directions is None else f"{directions:.0%} of energy" if directions < 1 else str(directions)
        cells = [f"{accuracy[directions, weighting, share]:.1%}" for weighting, share in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

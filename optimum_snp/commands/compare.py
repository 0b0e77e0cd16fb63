r"""Compare models: accuracy, agreement with the first one, divergence, costs and latency.

The first model is what the others are held against. Without a dataset only costs and latency are told.

Example:
  optimum-cli snp compare deit-small small small-recovered --dataset my/images --backends eager onnxruntime \
      --plot comparison.png
"""

import argparse

from ..comparison import compare
from ..comparison.plot import plot_comparison
from ..configuration import LATENCY_BACKENDS
from .common import (
    Result,
    add_dataset_arguments,
    add_reading_arguments,
    check_plot,
    dataset_name,
    load_named_dataset,
    reading_options,
    short_names,
)
from .numbers import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders of saved models, Hub ids or short names")
    add_dataset_arguments(parser, "dataset", "labelled images", required=False, split="train")
    add_reading_arguments(parser, labels=True)
    parser.add_argument(
        "--num-samples", type=count, metavar="N", help="images for agreement and divergence (default: all)"
    )
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--backends", nargs="*", choices=LATENCY_BACKENDS, default=["eager"],
        help="what latency is measured on; none to leave it out (default: eager)",
    )  # fmt: skip
    parser.add_argument(
        "--num-runs", type=count, default=30, metavar="N", help="timed passes of each (default: %(default)s)"
    )
    parser.add_argument("--plot", metavar="FILE", help="also draw a picture, such as comparison.png")


def run(args: argparse.Namespace) -> Result:
    """Compares and prints a table."""
    if args.plot:
        check_plot(args.plot)
    comparison = compare(
        short_names(args.models),
        load_named_dataset(args.dataset, args.dataset_split) if args.dataset else None,
        num_samples=args.num_samples,
        backends=args.backends,
        num_runs=args.num_runs,
        batch_size=args.batch_size,
        dataset_name=dataset_name(args.dataset, args.dataset_split) if args.dataset else None,
        **reading_options(args),
    )
    if args.plot:
        plot_comparison(comparison, args.plot)
    return comparison.to_dict(), str(comparison)

"""Measure top-1 and top-5 accuracy on labelled images, or the metrics of another problem_type.

Example:
  optimum-cli snp evaluate small --dataset my/images --dataset-split test --update-card
"""

import argparse
from pathlib import Path

from ..file_names import MEASUREMENTS_NAME
from ..pruner import SNPPruner
from ..publishing import check_save
from .common import (
    Result,
    add_dataset_arguments,
    add_model_argument,
    add_reading_arguments,
    dataset_name,
    load_named_dataset,
    metric_lines,
    reading_options,
)
from .numbers import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    add_dataset_arguments(parser, "dataset", "labelled images", required=True, split="train")
    add_reading_arguments(parser, labels=True)
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--update-card",
        action="store_true",
        help="also state the figures in the card of MODEL, a folder that this library saved",
    )


def run(args: argparse.Namespace) -> Result:
    """Evaluates, and saves the figures where that is asked for."""
    if args.update_card:
        if not (Path(args.model) / MEASUREMENTS_NAME).is_file():
            raise ValueError(
                f"--update-card needs a folder that this library saved, and {args.model} is none. The figures of a "
                "dense model get into the card of the pruned one by `prune --eval-dataset` and `--measure-latency`."
            )
        check_save(args.model, overwrite=True)
    dataset = load_named_dataset(args.dataset, args.dataset_split)
    pruner = SNPPruner.from_pretrained(args.model)
    metrics = pruner.evaluate(
        dataset,
        batch_size=args.batch_size,
        dataset_name=dataset_name(args.dataset, args.dataset_split),
        **reading_options(args),
    )
    if args.update_card:
        pruner.save_pretrained(args.model, overwrite=True)
    result = dict(metrics)
    if "accuracy" in metrics:
        result["num_images"] = pruner.measurements.accuracies[-1].num_images
    return result, "\n".join(metric_lines(metrics))

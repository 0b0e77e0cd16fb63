"""Measure top-1 and top-5 accuracy on labelled images.

Example:
  optimum-cli snp evaluate small --dataset my/images --dataset-split test
"""

import argparse

from ..pruner import SNPPruner
from .common import Result, add_dataset_arguments, add_model_argument, load_named_dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    add_dataset_arguments(parser, "dataset", "labelled images", required=True, split="train")
    parser.add_argument("--image-column", metavar="NAME", help="column of images, where its type does not tell")
    parser.add_argument("--label-column", metavar="NAME", help="column of labels, where its type does not tell")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")


def run(args: argparse.Namespace) -> Result:
    """Evaluates and prints."""
    dataset = load_named_dataset(args.dataset, args.dataset_split)
    accuracy = SNPPruner.from_pretrained(args.model).evaluate(
        dataset, batch_size=args.batch_size, image_column=args.image_column, label_column=args.label_column
    )
    lines = [
        f"{'top-5' if name.startswith('top5') else 'top-1'} accuracy  {value:.2%}" for name, value in accuracy.items()
    ]
    return {**accuracy, "num_images": len(dataset)}, "\n".join(lines)

"""Write a report on models: one HTML page with tables and pictures, and the pictures as PNG files.

Example:
  optimum-cli snp report small small-finetuned --original deit-small --images my/images --output report
"""

import argparse

from ..pruner import SNPPruner
from ..publishing.report import check_report, write_report
from .common import (
    Result,
    add_dataset_arguments,
    add_output_argument,
    add_reading_arguments,
    dataset_name,
    load_named_dataset,
    reading_options,
    short_names,
)
from .numbers import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders of saved models, Hub ids or short names")
    add_output_argument(parser, "the page and the pictures go")
    parser.add_argument("--original", metavar="MODEL", help="the model that the others were pruned from")
    add_dataset_arguments(
        parser,
        "images",
        "images to show attention maps and merged patches of, with --original",
        required=False,
        split="train",
    )
    parser.add_argument(
        "--num-images", type=int, default=4, metavar="N", help="how many, up to 16 (default: %(default)s)"
    )
    add_dataset_arguments(
        parser, "evaluate", "labelled images to measure the accuracy of every model on", required=False, split="train"
    )
    add_reading_arguments(parser, labels=True)
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="default: %(default)s")


def run(args: argparse.Namespace) -> Result:
    """Evaluates if asked to, and writes the report."""
    check_report(args.output, args.num_images, overwrite=args.overwrite)
    if args.images and not args.original:
        raise ValueError("--images shows the attention before and after pruning. Name the original with --original.")
    names = short_names(([args.original] if args.original else []) + args.models)
    images = load_named_dataset(args.images, args.images_split) if args.images else None
    dataset = load_named_dataset(args.evaluate, args.evaluate_split) if args.evaluate else None
    pruners = {name: SNPPruner.from_pretrained(model) for name, model in names.items()}
    if dataset is not None:
        for pruner in pruners.values():
            pruner.evaluate(
                dataset,
                batch_size=args.batch_size,
                dataset_name=dataset_name(args.evaluate, args.evaluate_split),
                **reading_options(args),
            )
    result = write_report(
        args.output,
        {name: pruner.record for name, pruner in pruners.items()},
        original=next(iter(pruners)) if args.original else None,
        images=images,
        num_images=args.num_images,
        image_column=args.image_column,
        overwrite=args.overwrite,
    )
    return result, f"Report in {result['report']}"

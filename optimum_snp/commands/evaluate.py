"""Measure top-1 and top-5 accuracy on labelled images, or the metrics of another problem_type.

A model of images and texts (CLIP, SigLIP) has no classifier: with --text, images are named by texts instead.

Examples:
  optimum-cli snp evaluate small --dataset my/images --dataset-split test --update-card
  optimum-cli snp evaluate clip-small --dataset my/images --dataset-split test --text "a photo of a {}"
"""

import argparse
from pathlib import Path

import datasets

from ..data.columns import find_label_column
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
    parser.add_argument(
        "--text",
        action="append",
        metavar="TEXT",
        help="zero-shot: a text for every class of the dataset, whose name comes into the place of {}; of several "
        "(--text … --text …) the mean counts",
    )
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--update-card",
        action="store_true",
        help="also state the figures in the card of MODEL, a folder that this library saved",
    )


def run(args: argparse.Namespace) -> Result:
    """Evaluates, and saves the figures where that is asked for."""
    for text in args.text or ():
        if "{}" not in text:
            raise ValueError(f"--text {text!r} has no {{}}, where the name of a class is to stand.")
    if args.update_card:
        if not (Path(args.model) / MEASUREMENTS_NAME).is_file():
            raise ValueError(
                f"--update-card needs a folder that this library saved, and {args.model} is none. The figures of a "
                "dense model get into the card of the pruned one by `prune --eval-dataset` and `--measure-latency`."
            )
        check_save(args.model, overwrite=True)
    dataset = load_named_dataset(args.dataset, args.dataset_split)
    options = {
        "batch_size": args.batch_size,
        "dataset_name": dataset_name(args.dataset, args.dataset_split),
        **reading_options(args),
    }
    classes = _classes_of(dataset, args.label_column) if args.text else []
    pruner = SNPPruner.from_pretrained(args.model)
    if args.text:
        texts = [text.replace("{}", name) for name in classes for text in args.text]
        metrics = pruner.evaluate_zero_shot(dataset, classes, texts, **options)
    else:
        metrics = pruner.evaluate(dataset, **options)
    if args.update_card:
        pruner.save_pretrained(args.model, overwrite=True)
    result = dict(metrics)
    if "accuracy" in metrics:
        result["num_images"] = pruner.measurements.accuracies[-1].num_images
    return result, "\n".join(metric_lines(metrics))


def _classes_of(dataset: datasets.Dataset, label_column: str | None) -> list[str]:
    """The names of the classes of a dataset, which texts are made of."""
    label = dataset.features[find_label_column(dataset.features, label_column)]
    if not isinstance(label, datasets.ClassLabel):
        raise ValueError("The labels of the dataset have no names of classes (ClassLabel), which --text needs.")
    return label.names

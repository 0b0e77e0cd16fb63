"""What several commands share: their common options, datasets by name, and the form of their results."""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from ..configuration import LAYOUTS
from ..data import load_image_folder
from ..drawing import can_draw
from ..folders import check_file
from ..loading import resolve_name
from ..pruner import SNPPruner
from ..publishing.recording import folder_name
from ..training.recipes import Recipe
from .numbers import whole


# What a command found: for machines as a dict that JSON can hold, and for people as text.
Result = tuple[dict[str, Any], str]

# Images of a stream that are shuffled among each other.
SHUFFLE_BUFFER = 10_000


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the positional MODEL."""
    parser.add_argument(
        "model", metavar="MODEL", help="folder of a saved model, Hub id, or short name such as deit-small"
    )


def add_output_argument(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    """Adds `--output` and `--overwrite`."""
    parser.add_argument("--output", required=required, metavar="FOLDER", help=f"where {what}")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what this library saved there before; other files stay"
    )


def add_layout_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--layout` for what is saved or pushed."""
    parser.add_argument(
        "--layout", choices=LAYOUTS, help="'snp' with its own code, or 'native', an ordinary checkpoint of "
        "transformers without remote code (default: as the model was planned or loaded)",
    )  # fmt: skip


def check_not_source(output: str, *sources: str | None) -> None:
    """Refuses to write over what is read.

    Raises:
        ValueError: If the output is the folder of a source.
    """
    folder = Path(output).expanduser().resolve()
    for source in sources:
        if source and Path(resolve_name(source)).is_dir() and Path(resolve_name(source)).resolve() == folder:
            raise ValueError(f"--output {output} is {source} itself, which would be lost. Name another folder.")


def check_plot(path: str) -> None:
    """Tells before any work whether `--plot` can be drawn.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the file is no picture, or cannot be written.
    """
    if not can_draw():
        raise ImportError("--plot needs matplotlib: pip install 'optimum-snp[plots]'.")
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot {path}: name a .png, .svg or .pdf file.")
    check_file(path)


def save_or_rescue(pruner: SNPPruner, output: str, *, overwrite: bool, layout: str | None = None) -> None:
    """Saves a model; where that fails after all, as on a full disk, in another place that the error names.

    Raises:
        OSError: If it was saved elsewhere, or nowhere.
    """
    try:
        pruner.save_pretrained(output, overwrite=overwrite, layout=layout)
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="optimum-snp-rescued-"))
        try:
            pruner.save_pretrained(folder, layout=layout)
        except OSError:
            folder.rmdir()
            raise error from None
        raise OSError(f"{output} could not be written: {error}. The model was saved in {folder} instead.") from error


def add_dataset_arguments(parser: Any, name: str, purpose: str, *, required: bool, split: str) -> None:
    """Adds `--NAME` and `--NAME-split`."""
    parser.add_argument(f"--{name}", required=required, metavar="DATASET", help=f"{purpose}: folder or Hub id")
    parser.add_argument(
        f"--{name}-split", default=split, metavar="SPLIT", help="its split (default: %(default)s; a folder without "
        "subfolders named after splits is all train)",
    )  # fmt: skip


def add_reading_arguments(parser: Any, *, labels: bool, workers: bool = True) -> None:
    """Adds what says how images, and their labels if there are any, are read; see [`reading_options`]."""
    parser.add_argument("--image-column", metavar="NAME", help="column of images, where its type does not tell")
    if labels:
        add_label_arguments(parser)
    if workers:
        parser.add_argument(
            "--num-workers", type=whole, metavar="N", help="processes that decode images (default: by their number)"
        )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that cannot be read, and name them"
    )


def add_label_arguments(parser: Any) -> None:
    """Adds what says how labels are read."""
    parser.add_argument("--label-column", metavar="NAME", help="column of labels, where its type does not tell")
    parser.add_argument(
        "--label-map",
        type=_label_map,
        metavar="JSON",
        help="classes whose names differ, as an object of JSON or a file that holds one: "
        """'{"name in the dataset": "name in the model"}'""",
    )


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given for [`add_reading_arguments`], by the names that the pruner has for it."""
    names = ("image_column", "label_column", "label_map", "num_workers", "skip_unreadable")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def _label_map(text: str) -> dict[str, str | int]:
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} is no object of JSON, nor a file that holds one: {error}") from error
    if not isinstance(found, dict) or not all(type(value) in (str, int) for value in found.values()):
        raise argparse.ArgumentTypeError(f"{text} must be an object of names (or numbers) by name, got {found!r}")
    return found


def metric_lines(metrics: dict[str, float]) -> list[str]:
    """Metrics for people: shares in per cent, others as numbers."""
    names = {"accuracy": "top-1 accuracy", "top5_accuracy": "top-5 accuracy"}
    return [
        f"{names[name]}  {value:.2%}" if name in names else f"{name.replace('_', ' ')}  {value:.4f}"
        for name, value in metrics.items()
    ]


def load_named_dataset(
    name: str, split: str, *, streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """A folder of images, or a dataset of the Hub; of the latter, if asked, only what is read is downloaded.

    Raises:
        ValueError: If there is no such split, a folder holds no image, or the name is empty.
    """
    if not name:
        raise ValueError("The name of the dataset is empty. Name a folder or a Hub id.")
    if Path(name).exists():
        return load_image_folder(name, split)
    return datasets.load_dataset(name, split=split, streaming=streaming)


def dataset_name(name: str, split: str) -> str:
    """What cards and reports call a dataset of a command: never the whole path of a folder."""
    if not Path(name).exists():
        return name
    return folder_name(name) if split == "train" else f"{folder_name(name)}/{split}"


def chosen_recipe(name: str | None, without: Sequence[str] | None) -> Recipe | None:
    """The recipe of `--recipe`, less the parts of `--without`.

    Raises:
        ValueError: If parts are to be left out of no recipe.
    """
    if without and not name:
        raise ValueError("--without leaves out parts of a recipe; name the recipe with --recipe.")
    return Recipe.from_preset(name).without(*without or []) if name else None


def short_names(models: list[str]) -> dict[str, str]:
    """Short, different names for models: the last part of the path, numbered where it comes again."""
    names: dict[str, str] = {}
    for model in dict.fromkeys(models):
        name = base = Path(model).resolve().name if Path(model).exists() else model.rstrip("/").split("/")[-1]
        number = 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names[name] = model
    return names

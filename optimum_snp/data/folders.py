"""Folders of images as labelled data sets: their splits, and their classes."""

import logging
import os
import unicodedata
from pathlib import Path

import datasets

from .splits import find_splits, split_of
from .tree import ImageTree


logger = logging.getLogger(__name__)

_SHOWN = 3


def load_image_folder(folder: str | Path, split: str | None = "train") -> datasets.Dataset:
    """Lists the images of a folder. Its subfolders, if there are any with images, are the classes.

    Args:
        folder (`str` or `Path`):
            The folder. Its name is no pattern.
        split (`str`, *optional*, defaults to `"train"`):
            The split, where the subfolders are those of splits (`train`, `test`, `val` and the like, see
            docs/data.md); without such subfolders all images are `"train"`. `None` takes the only split there is.

    Returns:
        `datasets.Dataset`: The columns `image`, decoded when it is read, and `label`, where there are classes.

    Raises:
        ValueError: If `folder` is no folder, holds no image or no such split, or its splits cannot be told from
            classes.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of images.")
    tree = ImageTree(folder)
    if not tree.all_images():
        raise ValueError(f"The folder {folder} has no image that can be read.{_other_files(tree)}")
    splits = find_splits(tree)
    if splits is None:
        splits = {"train": tree}
        name = "train" if split is None else split_of(split) or split
    elif split is None and len(splits) > 1:
        raise ValueError(
            f"The folder {folder} has the splits {', '.join(map(repr, splits))}. Name the folder of one of them, such "
            f"as {next(reversed(splits.values())).path}."
        )
    else:
        name = next(iter(splits)) if split is None else split_of(split) or split
    if name not in splits:
        raise ValueError(
            f"The folder {folder} has no split {split!r}, only {', '.join(map(repr, splits))}. Name one of these, or "
            "the folder of its images."
        )
    return _labelled_images(splits[name], name, tree)


def _labelled_images(tree: ImageTree, split: str, whole: ImageTree) -> datasets.Dataset:
    images = [str(path) for path in tree.images]
    columns: dict[str, list] = {"image": images}
    features = {"image": datasets.Image()}
    counted = "no classes"
    if tree.folders:
        labels: list[int | None] = [None] * len(images)  # beside the folders of the classes
        for number, folder in enumerate(tree.folders.values()):
            found = [str(path) for path in folder.all_images()]
            images += found
            labels += [number] * len(found)
        columns["label"] = labels
        # macOS takes names apart: one form for what people see as one name.
        names = [unicodedata.normalize("NFC", name) for name in tree.folders]
        features["label"] = datasets.ClassLabel(names=names)
        counted = f"{len(tree.folders)} class{'es' if len(tree.folders) > 1 else ''}"
    beside = [*tree.images] if tree.folders else []
    beside += [] if tree is whole else whole.images
    strays = ""
    if beside:
        shown = ", ".join(str(path) for path in beside[:_SHOWN]) + (", …" if len(beside) > _SHOWN else "")
        strays = f" {len(beside)} lie beside the folders of classes or splits: {shown}."
    _say(
        f"{tree.path}: {len(images)} image{'s' if len(images) > 1 else ''} of {counted} in split {split!r}.{strays}"
        f"{_other_files(whole)}"
    )
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _say(text: str) -> None:
    """Once for all processes of a job."""
    if os.environ.get("RANK", "0") == "0":
        logger.info(text)


def _other_files(tree: ImageTree) -> str:
    if not tree.others:
        return ""
    endings = ", ".join(f"{count} {ending}" for ending, count in tree.others.most_common(_SHOWN))
    return f" Other files were left out: {endings}{', …' if len(tree.others) > _SHOWN else ''}."

"""Folders of images: which files are images, which folder is a split, and which a class."""

import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path

import datasets

from .splits import find_splits, split_of


logger = logging.getLogger(__name__)

# The endings of Pillow's formats that hold pixels of photographs and scans. A file is read by what is in it.
IMAGE_ENDINGS = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".mpo",
        ".pbm",
        ".pcx",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".sgi",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)

# What systems and tools put beside images; hidden entries are left out, too.
SYSTEM_ENTRIES = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "#recycle", "lost+found", "__pycache__"}
    | {"system volume information"}
)

_SHOWN = 3


class ImageTree:
    """The images below a folder, without hidden and system entries. Links are followed, once.

    Attributes:
        path (`Path`): The folder.
        images (`list[Path]`): Those that lie in it, by name.
        folders (`dict[str, ImageTree]`): The folders in it that hold images at any depth, by name.
        others (`Counter[str]`): How many other files there are, by their endings.
    """

    def __init__(self, path: Path, above: frozenset[str] = frozenset()):
        self.path = path
        self.images: list[Path] = []
        self.folders: dict[str, ImageTree] = {}
        self.others: Counter[str] = Counter()
        above = above | {os.path.realpath(path)}
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name.casefold() in SYSTEM_ENTRIES:
                continue
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:  # else a link that leads back
                    folder = ImageTree(Path(entry.path), above)
                    self.others += folder.others
                    if folder.images or folder.folders:
                        self.folders[entry.name] = folder
            elif os.path.splitext(entry.name)[1].casefold() in IMAGE_ENDINGS:
                self.images.append(Path(entry.path))
            else:
                self.others[os.path.splitext(entry.name)[1].casefold() or "no ending"] += 1

    def all_images(self) -> list[Path]:
        """Those of the folder and of all below it."""
        return [*self.images, *(image for folder in self.folders.values() for image in folder.all_images())]


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

"""Where image, or sound, and label of an item are: columns of a `datasets.Dataset`, keys of a dict."""

from collections.abc import Mapping
from typing import Any

import datasets
from PIL import Image


LABEL_NAMES = ("label", "labels", "fine_label")
IMAGE_NAMES = ("pixel_values", "image", "img")
SOUND_NAMES = ("input_values", "audio")


def find_image_column(features: datasets.Features, image_column: str | None) -> str:
    """The column of images: the one named, else the only one of that type, else one of a usual name, else of sounds.

    Raises:
        ValueError: If there is no such column, or several.
    """
    if image_column is not None:
        return _named_column(features, image_column)
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    found = found or [name for name in IMAGE_NAMES if name in features][:1]
    found = found or [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    found = found or [name for name in SOUND_NAMES if name in features][:1]
    if len(found) != 1:
        problem = "no column of images" if not found else f"several columns of images ({', '.join(found)})"
        raise ValueError(
            f"The dataset has {problem}; its columns are {', '.join(map(repr, features))}. Name one with image_column."
        )
    return found[0]


def find_label_column(features: datasets.Features, label_column: str | None) -> str:
    """The column of labels: the one named, else the only one of classes, else the only one of a usual name.

    Raises:
        ValueError: If there is no such column, or several.
    """
    if label_column is not None:
        return _named_column(features, label_column)
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    found = found or [name for name in LABEL_NAMES if name in features]
    if len(found) != 1:
        if list(features) == ["image"]:  # what a folder without classes is read as
            raise ValueError(
                "These images have no labels; training and evaluation need them. A folder of images needs a subfolder "
                "for each class."
            )
        raise ValueError(
            f"The column of labels is not clear; the columns are {', '.join(map(repr, features))}. "
            "Name one with label_column."
        )
    return found[0]


def image_key(item: Mapping[str, Any], image_column: str | None) -> str | None:
    """The key of an item's image, where no column is known."""
    if image_column is not None:
        return image_column
    known = [name for name in (*IMAGE_NAMES, *SOUND_NAMES) if name in item]
    return next(iter(known or [name for name, value in item.items() if isinstance(value, Image.Image)]), None)


def label_key(item: Mapping[str, Any], label_column: str | None) -> str | None:
    """The key of an item's label: the one named, else a usual one."""
    return next((name for name in (label_column, *LABEL_NAMES) if name in item), label_column)


def _named_column(features: datasets.Features, name: str) -> str:
    if name not in features:
        raise ValueError(f"The dataset has no column {name!r}; it has {', '.join(map(repr, features))}.")
    return name

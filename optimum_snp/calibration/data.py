"""Datasets of every kind the ecosystem uses, seen as one: a torch dataset of checked pixel values.

Accepted are a `datasets.Dataset` or `IterableDataset` with an image column, a `torch.utils.data.Dataset` of images,
of `(image, label)` pairs or of dicts with `pixel_values`, a folder of images, and a tensor `[N, C, H, W]`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils import data as torch_data
from transformers import BaseImageProcessor

from ..structure import as_pair
from .labels import label_ids


LABEL_NAMES = ("label", "labels", "fine_label")

# How folders of splits are called, and the split that each holds.
SPLIT_OF_FOLDER = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


class _ImageReader:
    """Turns one item of a dataset into `{"pixel_values": [C, H, W] float32}`, with `"labels"` when asked for."""

    def __init__(
        self,
        dataset: Any,
        config: Any,
        image_processor: BaseImageProcessor | None,
        image_column: str | None,
        label_column: str | None,
        with_labels: bool,
        transform: Callable[[Image.Image], torch.Tensor] | None,
    ):
        self.transform = transform
        self.image_processor = image_processor
        self.with_labels = with_labels
        self.num_labels = config.num_labels
        self.label2id = config.label2id
        self.expected_shape = (config.num_channels, *as_pair(config.image_size))
        features = _features(dataset)
        self.image_column = _find_image_column(features, image_column)
        self.label_column = _find_label_column(features, label_column) if with_labels else None
        self.label_names: list[str] = getattr((features or {}).get(self.label_column), "names", [])
        self.label_ids = label_ids(self.label_names, config)

    def read(self, dataset: Any, index: int) -> dict[str, Any]:
        with _naming_unreadable(index):
            item = dataset[index]
        return self.convert(item, index)

    def convert(self, item: Any, index: int) -> dict[str, Any]:
        image, label = self._split(item)
        pixel_values = self._pixel_values(image, index)
        if tuple(pixel_values.shape) != self.expected_shape:
            raise ValueError(
                f"Image {index} of the dataset has pixel values of shape {tuple(pixel_values.shape)}; the model reads "
                f"{self.expected_shape} (channels, height, width). Resize it, or pass images and an image processor."
            )
        if not torch.isfinite(pixel_values).all():
            raise ValueError(f"Image {index} of the dataset has pixel values that are NaN or infinite.")
        if not self.with_labels:
            return {"pixel_values": pixel_values}
        if label is None:
            raise ValueError(f"Item {index} of the dataset has no label; training and evaluation need one.")
        label = self._label_id(label, index)
        if not 0 <= label < self.num_labels:
            raise ValueError(f"Item {index} of the dataset has label {label}; the model has {self.num_labels} labels.")
        return {"pixel_values": pixel_values, "labels": label}

    def _label_id(self, label: Any, index: int) -> int:
        if isinstance(label, str):
            if label not in self.label2id:
                raise ValueError(
                    f"Item {index} of the dataset has label {label!r}, which is none of the model's: "
                    f"{', '.join(map(repr, self.label2id))}. Make the labels class indices."
                )
            return self.label2id[label]
        return self.label_ids.get(int(label), int(label))

    def _split(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, dict):
            label_column = self.label_column or next((name for name in LABEL_NAMES if name in item), None)
            image_column = self.image_column or _image_of(item)
            if image_column not in item:
                raise ValueError(
                    f"An item of the dataset has no {image_column or 'image'!r}; it has {', '.join(map(repr, item))}. "
                    "Name the column of images with image_column."
                )
            return item[image_column], item.get(label_column)
        if isinstance(item, (tuple, list)):
            return item[0], item[1] if len(item) > 1 else None
        return item, None

    def _pixel_values(self, image: Any, index: int) -> torch.Tensor:
        if isinstance(image, list):  # what `datasets` makes of arrays that `map` returned
            image = torch.as_tensor(image, dtype=torch.float32)
        if isinstance(image, torch.Tensor) and image.is_floating_point():
            if self.transform is not None:
                raise ValueError(
                    f"Item {index} of the dataset has ready pixel values, but images are to be changed at random in "
                    "training. Pass a dataset of images, or a recipe without these changes."
                )
            return image.float()
        if isinstance(image, torch.Tensor) and image.dim() == 3:
            image = image.permute(1, 2, 0)  # a tensor of bytes is [C, H, W], an array [H, W, C]
        if isinstance(image, (torch.Tensor, np.ndarray)):
            image = _array_to_image(np.asarray(image), index)
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"Item {index} of the dataset is no image but {type(image).__name__}; expected a PIL image, an array "
                "of unsigned bytes, or a float tensor of pixel values."
            )
        if self.image_processor is None and self.transform is None:
            raise ValueError(
                "These images must be prepared for the model, but it came without an image processor. "
                "Pass image_processor= to SNPPruner.from_pretrained, or a dataset of pixel values."
            )
        with _naming_unreadable(index):  # Pillow decodes a file only now
            image = image.convert("L" if self.expected_shape[0] == 1 else "RGB")
        if self.transform is not None:
            return self.transform(image)
        return self.image_processor(images=image, return_tensors="pt")["pixel_values"][0].float()


class PixelDataset(torch_data.Dataset):
    """A dataset with a length as a torch dataset of pixel values (and labels)."""

    def __init__(self, dataset: Any, reader: _ImageReader):
        self.dataset = dataset
        self.reader = reader

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.reader.read(self.dataset, index)


class PixelStream(torch_data.IterableDataset):
    """A stream as a torch dataset of pixel values (and labels).

    Attributes:
        least_images (`int`): How many it must have; set it to the number of processes that it is dealt out to.
    """

    least_images = 1

    def __init__(self, dataset: Any, reader: _ImageReader):
        self.dataset = dataset
        self.reader = reader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        count = 0
        for count, item in enumerate(readable(self.dataset), start=1):
            yield self.reader.convert(item, count - 1)
        if count < self.least_images and torch_data.get_worker_info() is None:  # a worker may have none of them
            raise ValueError(
                f"The stream has {count} images. To be dealt out to the processes of this job it needs at least "
                f"{self.least_images}."
                if count
                else "The dataset is empty."
            )

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def pixel_dataset(
    dataset: Any,
    config: Any,
    image_processor: BaseImageProcessor | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    with_labels: bool = False,
    transform: Callable[[Image.Image], torch.Tensor] | None = None,
) -> PixelDataset | PixelStream:
    """Makes a torch dataset of `{"pixel_values": [C, H, W]}` (and `"labels"`) of any supported dataset.

    Args:
        dataset:
            One of the kinds that the module's docstring lists. A `str` or `Path` is a folder of images; with one
            subfolder per class they are labelled.
        config (`PretrainedConfig`):
            Config of the model that reads the images: `num_channels`, `image_size`, `num_labels`.
        image_processor (`BaseImageProcessor`, *optional*):
            Prepares PIL images and arrays of bytes. Not needed for ready pixel values.
        image_column, label_column (`str`, *optional*):
            The columns of a `datasets.Dataset`. By default those with the feature types `Image` and `ClassLabel`.
        with_labels (`bool`, *optional*, defaults to `False`):
            Whether items carry labels.
        transform (`Callable`, *optional*):
            From an RGB (or grey) image to pixel values, instead of the image processor.

    Raises:
        TypeError: If `dataset` is of no supported kind.
        ValueError: If it is empty, a folder does not exist or has no image, or a column is missing. Reading an item
            raises it for an unreadable image, a wrong shape, a NaN, or a label out of range, naming the item.
    """
    if isinstance(dataset, (str, Path)):
        dataset = load_image_folder(dataset)
    if isinstance(dataset, dict):
        raise TypeError(f"Pass one split of the dataset, not all; it has {', '.join(map(repr, dataset))}.")
    is_stream = isinstance(dataset, (datasets.IterableDataset, torch_data.IterableDataset))
    if not is_stream and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            f"A dataset of type {type(dataset).__name__} is not supported. Pass a datasets.Dataset, a "
            "torch.utils.data.Dataset, a folder of images, or a tensor [N, C, H, W] of pixel values."
        )
    if isinstance(dataset, torch.Tensor) and dataset.dim() != 4:
        raise ValueError(f"A tensor of pixel values must be [N, C, H, W], got the shape {tuple(dataset.shape)}.")
    if not is_stream and len(dataset) == 0:
        raise ValueError("The dataset is empty.")
    reader = _ImageReader(dataset, config, image_processor, image_column, label_column, with_labels, transform)
    return PixelStream(dataset, reader) if is_stream else PixelDataset(dataset, reader)


def readable(stream: Any) -> Iterator[Any]:
    """The items of a stream.

    Raises:
        ValueError: If one cannot be read; the message names it.
    """
    items = iter(stream)
    for index in itertools.count():
        with _naming_unreadable(index):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def calibration_subset(dataset: PixelDataset | PixelStream, num_samples: int, seed: int) -> torch_data.Dataset:
    """At most `num_samples` items: a random choice by `seed`, or the first of a stream.

    Raises:
        ValueError: If `num_samples` is no positive integer, or a stream ends at once.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"The number of calibration samples must be a positive integer, got {num_samples!r}.")
    if isinstance(dataset, PixelStream):
        items = list(itertools.islice(readable(dataset.dataset), num_samples))
        if not items:
            raise ValueError("The dataset is empty.")
        return PixelDataset(items, dataset.reader)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator)[:num_samples]
    return torch_data.Subset(dataset, order.tolist())


def load_image_folder(folder: str | Path, split: str = "train") -> datasets.Dataset:
    """Loads a folder of images; subfolders, if there are any, are the classes.

    Args:
        folder (`str` or `Path`):
            The folder.
        split (`str`, *optional*, defaults to `"train"`):
            The split, where all subfolders are named after splits (`train`, `test`, `val` or `validation`); without
            such subfolders all images are `"train"`.

    Raises:
        ValueError: If `folder` is no folder, holds no image or no such split.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of images.")
    subfolders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    has_splits = bool(subfolders) and all(name in SPLIT_OF_FOLDER for name in subfolders)
    splits = {SPLIT_OF_FOLDER[name]: path for name, path in subfolders.items()} if has_splits else {"train": folder}
    split = SPLIT_OF_FOLDER.get(split, split)
    if split not in splits:
        raise ValueError(
            f"The folder {folder} has no split {split!r}, only {', '.join(map(repr, splits))}. Name one of these, or "
            "the folder of its images."
        )
    try:
        # By pattern, since `data_dir` would guess splits from the names of files and classes.
        return datasets.load_dataset("imagefolder", data_files={"train": f"{splits[split]}/**"}, split="train")
    except (FileNotFoundError, ValueError) as error:  # depends on whether there are other files
        raise ValueError(f"The folder {folder} has no image that can be read.") from error


@contextlib.contextmanager
def _naming_unreadable(index: int) -> Iterator[None]:
    """Names the image in what Pillow raises for a file that is no image or is cut short."""
    try:
        yield
    except (OSError, SyntaxError) as error:
        raise ValueError(f"Image {index} of the dataset cannot be read: {error}") from error


def _features(dataset: Any) -> datasets.Features | None:
    """The columns, where the dataset knows those of its items: not after `map` on a stream or with a transform."""
    if isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom":
        return None
    return dataset.features if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)) else None


def _image_of(item: dict[str, Any]) -> str | None:
    """The key of an item's image, where no column is known."""
    known = [name for name in ("pixel_values", "image") if name in item]
    return next(iter(known or [name for name, value in item.items() if isinstance(value, Image.Image)]), None)


def _named_column(features: datasets.Features, name: str) -> str:
    if name not in features:
        raise ValueError(f"The dataset has no column {name!r}; it has {', '.join(map(repr, features))}.")
    return name


def _find_image_column(features: datasets.Features | None, image_column: str | None) -> str | None:
    if features is None:
        return image_column
    if image_column is not None:
        return _named_column(features, image_column)
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if not found and "pixel_values" in features:
        return "pixel_values"
    if len(found) != 1:
        problem = "no column of images" if not found else f"several columns of images ({', '.join(found)})"
        raise ValueError(
            f"The dataset has {problem}; its columns are {', '.join(map(repr, features))}. Name one with image_column."
        )
    return found[0]


def _find_label_column(features: datasets.Features | None, label_column: str | None) -> str | None:
    if features is None:
        return label_column
    if label_column is not None:
        return _named_column(features, label_column)
    found = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    found = found or [name for name in LABEL_NAMES if name in features]
    if len(found) != 1:
        if list(features) == ["image"]:  # what a folder without classes is read as
            raise ValueError(
                "These images have no labels; training and evaluation need them. A folder of images needs a subfolder "
                "for each class, at least two."
            )
        raise ValueError(
            f"The column of labels is not clear; the columns are {', '.join(map(repr, features))}. "
            "Name one with label_column."
        )
    return found[0]


def _array_to_image(array: np.ndarray, index: int) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))):
        raise ValueError(
            f"Item {index} of the dataset is an array of {array.dtype} with shape {array.shape}; an image is an array "
            "of uint8, [H, W] or [H, W, C], and pixel values are a float tensor [C, H, W]."
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)

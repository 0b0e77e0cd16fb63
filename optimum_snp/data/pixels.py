"""Datasets of every kind the ecosystem uses, seen as one: a torch dataset of checked pixel values.

Accepted are a `datasets.Dataset` or `IterableDataset` with an image column, a `torch.utils.data.Dataset` of images,
of `(image, label)` pairs or of dicts with `pixel_values`, a folder of images, and a tensor `[N, C, H, W]`. What
becomes of each class, folder and pixel is in docs/data.md.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils import data as torch_data
from transformers import BaseImageProcessor

from ..structure import input_shape, reads_sounds
from .classes import LabelMap, ModelClasses
from .errors import ItemError, UnreadableImageError
from .folders import load_image_folder
from .images import ImageReader, unreadable
from .labels import DOUBTFUL, REGRESSION, LabelReader, problem_type
from .leaves import Leaf, is_stream, leaves_of, parts_of_stream, see_through
from .sounds import SoundReader


logger = logging.getLogger(__name__)

# Images that are named one by one, of those left out.
_NAMED = 20
# What reading a file raises in code that is not ours.
_READING_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)


class ItemReader:
    """Turns items of one leaf into `{"pixel_values": [C, H, W] float32}`, with `"labels"` when asked for."""

    def __init__(self, leaf: Leaf, images: ImageReader | SoundReader, labels: LabelReader | None):
        self.leaf = leaf
        self.images = images
        self.labels = labels

    def read(self, index: int, place: str) -> dict[str, Any]:
        """The item at `index` of the leaf; errors call it `place`."""
        return self.convert(self.item(index, place), place, self.leaf.original_label(index))

    def item(self, index: int, place: str) -> Any:
        """The same as its data set has it."""
        try:
            return self.leaf.dataset[index]
        except _READING_ERRORS as error:
            raise unreadable(self.place(index, place), error) from error

    def convert(self, item: Any, place: str, original_label: Any = None) -> dict[str, Any]:
        """An item as its data set has it, prepared for the model."""
        try:
            image, label = self.leaf.split(item)
        except KeyError as error:
            raise ValueError(
                f"An item of the dataset has no {error.args[0]!r}; it has {', '.join(map(repr, item))}. "
                "Name the column of images with image_column."
            ) from error
        place = _with_path(place, image)
        read = {self.images.input_name: self.images.read(image, place, self.leaf.image_mode)}
        if self.labels is not None:
            read["labels"] = self.labels.read(label, place, original_label)
        return read

    def decode(self, item: Any, place: str) -> None:
        """Raises an [`UnreadableImageError`] if the image of an item cannot be read."""
        try:
            image, _ = self.leaf.split(item)
        except KeyError:
            return  # told when the item is converted
        self.images.decode(image, _with_path(place, image))

    def place(self, index: int, place: str) -> str:
        """How errors call an item, with its file where that is known."""
        path = self.leaf.path_of(index)
        return f"{place} ({path})" if path else place

    def classes_of(self, index: int, place: str) -> set[int]:
        """The model's classes of the item at `index` of the leaf; its image is read only where labels need it."""
        if self.leaf.labels is not None:
            label, original = self.leaf.labels[index], None
        else:
            (_, label), original = self.leaf.split(self.item(index, place)), self.leaf.original_label(index)
        found = self.labels.read(label, place, original)
        return {found} if isinstance(found, int) else set(torch.as_tensor(found).nonzero().flatten().tolist())

    def check_labels(self) -> None:
        """Reads all labels that can be had without images.

        Raises:
            ItemError: If one cannot be used; it is named.
        """
        if self.labels is None or self.leaf.labels is None:
            return
        seen: set[Any] = set()
        for index, label in enumerate(self.leaf.labels):
            if isinstance(label, (int, str)) and (type(label), label) in seen:
                continue
            try:
                self.labels.read(label, f"{index} of the dataset")
            except ItemError:
                self.labels.read(label, self.place(index, f"{index} of the dataset"))
                raise
            if isinstance(label, (int, str)):
                seen.add((type(label), label))


class PixelDataset(torch_data.Dataset):
    """A dataset with a length as a torch dataset of pixel values (and labels).

    Attributes:
        classes ([`ModelClasses`], *optional*): The model's, with the names that the data set has for them where the
            model has none.
    """

    def __init__(
        self,
        dataset: Any,
        readers: dict[int, ItemReader],
        classes: ModelClasses | None = None,
        indices: Sequence[int] | None = None,
    ):
        self.dataset = dataset
        self.classes = classes
        self.indices = indices
        self._readers = readers

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        reader, index, place = self._find(index)
        return reader.read(index, place)

    @property
    def has_images(self) -> bool:
        """Whether its items surely are encoded images."""
        return all(reader.leaf.has_images for reader in self._readers.values())

    def select(self, indices: Sequence[int]) -> "PixelDataset":
        """Some of its items."""
        if self.indices is not None:
            indices = [self.indices[index] for index in indices]
        return PixelDataset(self.dataset, self._readers, self.classes, indices)

    def classes_of(self, index: int) -> set[int]:
        """The model's classes that an item has by its labels."""
        reader, index, place = self._find(index)
        return reader.classes_of(index, place)

    def why_unreadable(self, index: int) -> str | None:
        """What is wrong with an image that cannot be read, else `None`."""
        reader, index, place = self._find(index)
        try:
            reader.decode(reader.item(index, place), place)
        except UnreadableImageError as error:
            return str(error)
        return None

    def _find(self, index: int) -> tuple[ItemReader, int, str]:
        index = index if self.indices is None else self.indices[index]
        leaf, inner = see_through(self.dataset, index)
        return self._readers[id(leaf)], inner, f"{index} of the dataset"


class PixelStream(torch_data.IterableDataset):
    """A stream as a torch dataset of pixel values (and labels).

    Attributes:
        classes ([`ModelClasses`], *optional*): As of [`PixelDataset`].
        least_images (`int`): How many it must have; set it to the number of processes that it is dealt out to.
        skip_unreadable (`bool`): Whether images that cannot be read are left out, and named.
    """

    least_images = 1

    def __init__(
        self,
        dataset: Any,
        readers: dict[int, ItemReader],
        classes: ModelClasses | None = None,
        skip_unreadable: bool = False,
    ):
        self.dataset = dataset
        self.classes = classes
        self.skip_unreadable = skip_unreadable
        self._readers = readers

    def __iter__(self) -> Iterator[dict[str, Any]]:
        count, unread = 0, []
        for reader, item, place in self.items():
            try:
                converted = reader.convert(item, place)
            except UnreadableImageError as error:
                if not self.skip_unreadable:
                    raise
                unread.append(str(error))
                continue
            count += 1
            yield converted
        report_unreadable(unread)
        if count < self.least_images and torch_data.get_worker_info() is None:  # a worker may have none of them
            raise ValueError(
                f"The stream has {count} images. To be dealt out to the processes of this job it needs at least "
                f"{self.least_images}."
                if count
                else "The dataset is empty."
            )

    def items(self) -> Iterator[tuple[ItemReader, Any, str]]:
        """The items as they are, each with its reader and what errors call it."""
        places = (f"{index} of the dataset" for index in itertools.count())
        for part in parts_of_stream(self.dataset):
            reader = self._readers[id(part)]
            items = iter(reader.leaf.dataset)
            while True:
                place = next(places)
                try:
                    item = next(items)
                except StopIteration:
                    break
                except _READING_ERRORS as error:
                    raise unreadable(place, error) from error
                yield reader, item, place

    def set_epoch(self, epoch: int) -> None:
        for reader in self._readers.values():
            if hasattr(reader.leaf.dataset, "set_epoch"):
                reader.leaf.dataset.set_epoch(epoch)


class KeptItems(torch_data.Dataset):
    """Items of a stream that were kept as they are."""

    def __init__(self, items: list[tuple[ItemReader, Any, str]]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        reader, item, place = self.items[index]
        return reader.convert(item, place)


def pixel_dataset(
    dataset: Any,
    config: Any,
    image_processor: BaseImageProcessor | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    label_map: LabelMap | None = None,
    with_labels: bool = False,
    classes: ModelClasses | None = None,
    split: str | None = "train",
    transform: Callable[[Image.Image], torch.Tensor] | None = None,
) -> PixelDataset | PixelStream:
    """Makes a torch dataset of `{"pixel_values": [C, H, W]}` (and `"labels"`) of any supported dataset.

    Args:
        dataset:
            One of the kinds that the module's docstring lists. A `str` or `Path` is a folder of images; with
            subfolders for classes they are labelled.
        config (`PretrainedConfig`):
            Config of the model that reads the images: `num_channels`, `image_size`, and with labels `id2label` and
            `problem_type`.
        image_processor (`BaseImageProcessor`, *optional*):
            Prepares images and arrays of bytes. Not needed for ready pixel values.
        image_column, label_column (`str`, *optional*):
            The columns of a `datasets.Dataset`, or keys of items. By default those with the feature types `Image` and
            `ClassLabel`, or usual names.
        label_map (`dict`, *optional*):
            Which classes of the model those of the data set are, where names do not tell: names (or numbers) of the
            data set to names or numbers of the model.
        with_labels (`bool`, *optional*, defaults to `False`):
            Whether items carry labels.
        classes ([`ModelClasses`], *optional*):
            Of the model, where they are known better than from its config.
        split (`str`, *optional*, defaults to `"train"`):
            Which split of a folder is read; `None`: the only one.
        transform (`Callable`, *optional*):
            From an RGB (or grey) image to pixel values, instead of the image processor.

    Raises:
        TypeError: If `dataset` is of no supported kind.
        ValueError: If it is empty, a folder does not exist or has no image, a column is missing, classes cannot be
            matched with the model's, or images cannot be prepared for the model. Reading an item raises it for an
            unreadable image, a wrong shape, a NaN, or a label that is none of the model's, naming the item.
    """
    sounds = reads_sounds(config)
    if isinstance(dataset, (str, Path)):
        if sounds:
            raise ValueError(
                f"{dataset} is read as a folder of images, and the model reads sounds. Pass the data set itself: "
                "datasets.load_dataset('audiofolder', data_dir=…), a column of sounds with their sampling rate, or "
                "ready input_values."
            )
        dataset = load_image_folder(dataset, split)
    if isinstance(dataset, dict):
        raise TypeError(f"Pass one split of the dataset, not all; it has {', '.join(map(repr, dataset))}.")
    if not is_stream(dataset) and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            f"A dataset of type {type(dataset).__name__} is not supported. Pass a datasets.Dataset, a "
            "torch.utils.data.Dataset, a folder of images, or a tensor [N, C, H, W] of pixel values."
        )
    if isinstance(dataset, torch.Tensor) and dataset.dim() != len(input_shape(config)) + 1:
        kind, shape = ("spectrograms", "[N, frames, mel bins]") if sounds else ("pixel values", "[N, C, H, W]")
        raise ValueError(f"A tensor of {kind} must be {shape}, got the shape {tuple(dataset.shape)}.")
    if not is_stream(dataset) and len(dataset) == 0:
        raise ValueError("The dataset is empty.")
    images = SoundReader(config, image_processor) if sounds else ImageReader(config, image_processor, transform)
    if with_labels:
        classes = classes or ModelClasses.of(config)
    readers: dict[int, ItemReader] = {}
    for part in leaves_of(dataset):
        leaf = Leaf(part, image_column, label_column, with_labels)
        if leaf.has_images:
            images.check_images()
        labels = None
        if with_labels:
            labels = _label_reader(leaf, classes, problem_type(config), label_map)
            if not classes.named and len(labels.learned_names) == len(classes):
                # The next part, and the set to evaluate on, must mean the same by the same name.
                classes = ModelClasses([labels.learned_names[number] for number in range(len(classes))])
        readers[id(part)] = ItemReader(leaf, images, labels)
        readers[id(part)].check_labels()
    return (PixelStream if is_stream(dataset) else PixelDataset)(dataset, readers, classes)


def _with_path(place: str, image: Any) -> str:
    path = image.get("path") if isinstance(image, dict) else None
    return f"{place} ({path})" if path else place


def _label_reader(leaf: Leaf, classes: ModelClasses, problem: str, label_map: LabelMap | None) -> LabelReader:
    names = None if problem == REGRESSION and leaf.certainty == DOUBTFUL else leaf.names
    return LabelReader(classes, problem, names, label_map, leaf.certainty, leaf.label_lists)


def report_unreadable(messages: Sequence[str]) -> None:
    """Says how many images were left out, and which."""
    if messages:
        named = "; ".join(messages[:_NAMED])
        rest = f"; and {len(messages) - _NAMED} more" if len(messages) > _NAMED else ""
        logger.warning(f"{len(messages)} images cannot be read and are left out: {named}{rest}.")

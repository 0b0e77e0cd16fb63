"""What a data set says of its items: where the image is, where the label, and what the label counts.

PyTorch's own wrappers (`Subset`, `ConcatDataset`, `ChainDataset`) are seen through, so that each part speaks for
itself; below them lie leaves of four kinds: data sets and streams of `datasets`, and data sets and streams of a user.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from torch.utils import data as torch_data

from .columns import find_image_column, find_label_column, image_key, label_key
from .labels import CERTAIN, CHECKED, DOUBTFUL


# How deep attributes of a user's data set are searched for another that it handles.
_DEPTH = 3


class Leaf:
    """A data set that wraps no other, or one that its owner wrote.

    Args:
        dataset:
            The data set.
        image_column, label_column (`str`, *optional*):
            The names of image and label in its items, where they cannot be told.
        with_labels (`bool`):
            Whether items must have labels.

    Attributes:
        dataset: The data set, which leaves images undecoded where it can.
        names (`list[str]`, *optional*): The classes that its labels count.
        certainty (`str`): How sure that is; see [`LabelReader`].
        label_lists (`bool`): Whether its labels are lists of classes.
        image_mode (`str`, *optional*): The mode that its column of images asks for.
        has_images (`bool`): Whether its items surely are encoded images.
        labels (`Sequence`, *optional*): The labels of all items, where they can be had without reading images.
    """

    def __init__(self, dataset: Any, image_column: str | None, label_column: str | None, with_labels: bool):
        self.dataset = dataset
        self.image_column = image_column
        self.label_column = label_column
        self.names: list[str] | None = None
        self.certainty = CERTAIN
        self.label_lists = False
        self.image_mode: str | None = None
        self.has_images = False
        self.labels: Sequence[Any] | None = None
        self._originals: Callable[[int], Any] | None = None
        if isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom":
            self._read_transformed(with_labels)
        elif isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
            self._read_columns(with_labels)
        elif with_labels:
            self._read_attributes()

    def split(self, item: Any) -> tuple[Any, Any]:
        """Image and label (or `None`) of an item.

        Raises:
            KeyError: If it has no image; the argument says what was looked for.
        """
        if isinstance(item, Mapping):
            key = image_key(item, self.image_column)
            if key not in item:
                raise KeyError(key or "image")
            return item[key], item.get(label_key(item, self.label_column))
        if isinstance(item, (tuple, list)) and not _is_array(item):
            return item[0], item[1] if len(item) > 1 else None
        return item, None

    def original_label(self, index: int) -> Any:
        """The label before a user's transform handled it, or `None` where it is not known."""
        return None if self._originals is None else self._originals(index)

    def path_of(self, index: int) -> str | None:
        """The file of an image, where it is known."""
        dataset = self.dataset
        samples = getattr(dataset, "samples", None)
        if isinstance(samples, list) and index < len(samples) and isinstance(samples[index], (tuple, list)):
            return str(samples[index][0])
        if isinstance(dataset, datasets.Dataset):
            try:
                column = find_image_column(dataset.features, self.image_column)
                encoded = _undecoded(dataset.with_format(None), column)[index][column]
            except (ValueError, KeyError, TypeError):
                return None
            return encoded.get("path") if isinstance(encoded, dict) else None
        return None

    def _read_columns(self, with_labels: bool) -> None:
        features = self.dataset.features
        if features is None:
            if with_labels and (found := _names_before_map(self.dataset, self.label_column)):
                self.names, self.certainty = found, DOUBTFUL
            return
        self.image_column = find_image_column(features, self.image_column)
        if isinstance(features[self.image_column], datasets.Image):
            self.has_images, self.image_mode = True, features[self.image_column].mode
            self.dataset = _undecoded(self.dataset, self.image_column)
        if isinstance(self.dataset, datasets.Dataset):
            self.dataset = self.dataset.with_format(None)
        if with_labels:
            self.label_column = find_label_column(features, self.label_column)
            self.names, self.label_lists = _names_of_feature(features[self.label_column])
            if isinstance(self.dataset, datasets.Dataset):
                self.labels = _column(self.dataset, self.label_column)
                if self.names is None and self.labels and all(isinstance(label, str) for label in self.labels):
                    self.names = sorted(set(self.labels))

    def _read_transformed(self, with_labels: bool) -> None:
        """Of a data set with a transform: its items are the user's, but its columns tell what labels were."""
        if not with_labels:
            return
        features = self.dataset.features
        column = self.label_column if self.label_column in features else None
        try:
            column = column or find_label_column(features, None)
        except ValueError:
            several = [feature.names for feature in features.values() if isinstance(feature, datasets.ClassLabel)]
            self.names, self.certainty = _joined(several), DOUBTFUL
            return
        self.names, self.label_lists = _names_of_feature(features[column])
        labels = _column(self.dataset, column)
        if self.names is not None or (labels and isinstance(labels[0], str)):
            self.certainty = CHECKED
            self._originals = labels.__getitem__

    def _read_attributes(self) -> None:
        """Of a user's data set: the attributes that torchvision's have."""
        self.names = _names_of_attributes(self.dataset)
        if self.names is None:
            self.names, self.certainty = _joined(_named_inside(self.dataset, _DEPTH)), DOUBTFUL
        elif getattr(self.dataset, "target_transform", None) is not None:
            self.certainty = DOUBTFUL
            targets = getattr(self.dataset, "targets", None)
            if targets is not None and len(targets) == len(self.dataset):
                self.certainty = CHECKED
                self._originals = targets.__getitem__


def is_stream(dataset: Any) -> bool:
    """Whether it has items in a row only."""
    return isinstance(dataset, (datasets.IterableDataset, torch_data.IterableDataset))


def leaves_of(dataset: Any) -> list[Any]:
    """The data sets below PyTorch's own wrappers, in order, each once."""
    if type(dataset) is torch_data.Subset:
        return leaves_of(dataset.dataset)
    if type(dataset) in (torch_data.ConcatDataset, torch_data.ChainDataset):
        found = [leaf for part in dataset.datasets for leaf in leaves_of(part)]
        return list({id(leaf): leaf for leaf in found}.values())
    return [dataset]


def see_through(dataset: Any, index: int) -> tuple[Any, int]:
    """The leaf that an item comes from, and its index there."""
    while True:
        if type(dataset) is torch_data.Subset:
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif type(dataset) is torch_data.ConcatDataset:
            for part in dataset.datasets:
                if index < len(part):
                    dataset = part
                    break
                index -= len(part)
        else:
            return dataset, index


def parts_of_stream(dataset: Any) -> Iterator[Any]:
    """The streams that a chain of streams is made of."""
    if type(dataset) is torch_data.ChainDataset:
        for part in dataset.datasets:
            yield from parts_of_stream(part)
    else:
        yield dataset


def _is_array(item: Any) -> bool:
    """Whether a list is an image itself, its rows, rather than image and label."""
    if not isinstance(item, list) or not isinstance(item[0], list):
        return False
    try:
        return np.asarray(item).dtype.kind in "biuf"
    except ValueError:  # of different lengths
        return False


def _undecoded(dataset: Any, column: str) -> Any:
    """The same data set with files instead of images, which are decoded by us: errors then have their path."""
    return dataset.cast_column(column, datasets.Image(decode=False))


def _column(dataset: datasets.Dataset, column: str) -> list[Any]:
    return dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _names_of_feature(feature: Any) -> tuple[list[str] | None, bool]:
    """The names of a column of classes, and whether each of its labels is a list of them."""
    if isinstance(feature, datasets.ClassLabel):
        return feature.names, False
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return inner.names, True
    return None, False


def _names_of_attributes(dataset: Any) -> list[str] | None:
    """The names that `class_to_idx` or `classes` of an image folder of torchvision, or one like it, hold."""
    by_name = getattr(dataset, "class_to_idx", None)
    if isinstance(by_name, Mapping) and by_name:
        names: dict[int, list[str]] = {}
        for name, number in by_name.items():
            names.setdefault(int(number), []).append(str(name))
        if sorted(names) == list(range(len(names))):
            return [", ".join(names[number]) for number in range(len(names))]
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes):
        return [", ".join(map(str, name)) if isinstance(name, (tuple, list)) else str(name) for name in classes]
    return None


def _named_inside(dataset: Any, depth: int) -> list[list[str]]:
    """The classes of all data sets that a user's own handles."""
    values = list(getattr(dataset, "__dict__", {}).values())
    values += [part for value in values if isinstance(value, (list, tuple)) for part in value[:_DEPTH]]
    found = []
    for value in values:
        if not isinstance(value, (datasets.Dataset, datasets.IterableDataset, torch_data.Dataset)):
            continue
        for leaf in leaves_of(value):
            if isinstance(leaf, (datasets.Dataset, datasets.IterableDataset)):
                names = _names_of_features(leaf.features)
            else:
                names = _names_of_attributes(leaf)
                found += _named_inside(leaf, depth - 1) if names is None and depth else []
            found += [] if names is None else [names]
    return found


def _joined(several: list[list[str]]) -> list[str] | None:
    """The names that several data sets have for each number; where they differ, a name that is none."""
    columns = itertools.zip_longest(*several)
    names = [list(dict.fromkeys(name for name in column if name is not None)) for column in columns]
    return [" or ".join(found) for found in names] or None


def _names_before_map(stream: Any, label_column: str | None) -> list[str] | None:
    """The classes of a stream before `map`, which forgets them."""
    step = getattr(stream, "_ex_iterable", None)
    while step is not None:
        features = getattr(step, "features", None)
        if features is not None:
            return _names_of_features(features, label_column)
        step = getattr(step, "ex_iterable", None)
    return None


def _names_of_features(features: Any, label_column: str | None = None) -> list[str] | None:
    try:
        column = label_column if label_column in (features or {}) else find_label_column(features, None)
    except ValueError:
        return None
    return None if column is None else _names_of_feature(features[column])[0]

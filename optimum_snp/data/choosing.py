"""Which images of a data set are taken: those to calibrate on, those that can be read."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils import data as torch_data
from tqdm.auto import tqdm

from ..checks import check_positive_integer
from ..processes import process_state
from .draws import drawing
from .errors import UnreadableImageError
from .pixels import KeptItems, PixelDataset, PixelStream, report_unreadable


_BATCH_SIZE = 32


def calibration_subset(
    dataset: PixelDataset | PixelStream,
    num_samples: int,
    seed: int,
    *,
    skip_unreadable: bool = False,
    num_workers: int = 0,
) -> PixelDataset | KeptItems:
    """At most `num_samples` items: a random choice by `seed`, or the first of a stream; the same on every process.

    Args:
        dataset ([`PixelDataset`] or [`PixelStream`]):
            To choose from.
        num_samples (`int`):
            How many.
        seed (`int`):
            Of the choice.
        skip_unreadable (`bool`, *optional*, defaults to `False`):
            Whether others take the place of images that cannot be read, which are named.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that find these.

    Raises:
        ValueError: If `num_samples` is no positive integer, or no image can be taken.
    """
    check_positive_integer("num_samples", num_samples)
    if isinstance(dataset, PixelStream):
        chosen = _first_of_stream(dataset, num_samples, skip_unreadable)
    else:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        chosen = dataset.select(
            _readable(dataset, order, num_samples, num_workers) if skip_unreadable else order[:num_samples]
        )
    if not len(chosen):
        raise ValueError(
            "The dataset is empty." if not skip_unreadable else "The dataset has no image that can be read."
        )
    return chosen


def images_of_classes(
    dataset: PixelDataset | PixelStream, numbers: Sequence[int], num_samples: int, seed: int
) -> PixelDataset:
    """At most `num_samples` items whose labels are among some classes of the model: a random choice by `seed`.

    Args:
        dataset ([`PixelDataset`]):
            With labels.
        numbers (`Sequence[int]`):
            The classes.
        num_samples (`int`):
            How many; where labels cannot be had without reading images, no more are read than it takes to find them
            and one image of every class.
        seed (`int`):
            Of the choice.

    Raises:
        ValueError: If the dataset is a stream, has a label that is none of the model's, or no image of one of the
            classes.
    """
    if isinstance(dataset, PixelStream):
        raise ValueError("Images of some classes cannot be chosen from a stream. Pass a dataset that has a length.")
    wanted, not_seen, chosen = set(numbers), set(numbers), []
    for index in torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist():
        if len(chosen) == num_samples and not not_seen:
            break
        found = wanted & dataset.classes_of(index)
        not_seen -= found
        if found and len(chosen) < num_samples:
            chosen.append(index)
    if not chosen:
        raise ValueError(f"None of the {len(dataset)} images of the dataset is of one of these {len(wanted)} classes.")
    if not_seen:
        names = ", ".join(repr(dataset.classes.names[number]) for number in numbers if number in not_seen)
        raise ValueError(
            f"classes names {names}, of which the dataset has no image. Leave it out of classes, or add images of it."
        )
    return dataset.select(chosen)


def without_unreadable(dataset: PixelDataset | PixelStream, num_workers: int = 0) -> PixelDataset | PixelStream:
    """The same data set without images that cannot be read, which are counted and named.

    All images are decoded once for that, by all processes of a job together; those of a stream when they are read.

    Raises:
        ValueError: If none can be read.
    """
    if isinstance(dataset, PixelStream):
        dataset.skip_unreadable = True
        return dataset
    state = process_state()
    mine = range(state.process_index, len(dataset), state.num_processes)
    found = list(_reasons(dataset, mine, num_workers).items())
    reasons = dict(gather_object(found)) if state.num_processes > 1 else dict(found)
    if not reasons:
        return dataset
    if state.is_main_process:
        report_unreadable([reasons[index] for index in sorted(reasons)])
    if len(reasons) == len(dataset):
        raise ValueError("The dataset has no image that can be read.")
    return dataset.select([index for index in range(len(dataset)) if index not in reasons])


def _readable(dataset: PixelDataset, order: Sequence[int], count: int, num_workers: int) -> list[int]:
    """The first `count` of `order` that can be read."""
    chosen: list[int] = []
    unread: list[str] = []
    rest = iter(order)
    while len(chosen) < count and (candidates := list(itertools.islice(rest, count - len(chosen)))):
        reasons = _reasons(dataset, candidates, num_workers)
        unread += reasons.values()
        chosen += [index for index in candidates if index not in reasons]
    if process_state().is_main_process:
        report_unreadable(unread)
    return chosen


def _first_of_stream(stream: PixelStream, count: int, skip_unreadable: bool) -> KeptItems:
    kept: list[Any] = []
    unread: list[str] = []
    for reader, item, place in stream.items():
        if skip_unreadable:
            try:
                reader.decode(item, place)
            except UnreadableImageError as error:
                unread.append(str(error))
                continue
        kept.append((reader, item, place))
        if len(kept) == count:
            break
    report_unreadable(unread)
    return KeptItems(kept)


def _reasons(dataset: PixelDataset, indices: Sequence[int], num_workers: int) -> dict[int, str]:
    """What is wrong with each of these images that cannot be read."""
    loader = torch_data.DataLoader(
        _Probe(dataset, indices), batch_size=_BATCH_SIZE, num_workers=num_workers, collate_fn=list
    )
    is_silent = None if process_state().is_main_process else True  # None: only on a terminal
    progress = tqdm(total=len(indices), desc="Checking", unit="image", disable=is_silent)
    found: list[str | None] = []
    with drawing(0), progress:  # a user's data set may change images at random; later draws stay as they were
        for reasons in loader:
            found += reasons
            progress.update(len(reasons))
    return {index: reason for index, reason in zip(indices, found, strict=True) if reason is not None}


class _Probe(torch_data.Dataset):
    def __init__(self, dataset: PixelDataset, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> str | None:
        return self.dataset.why_unreadable(self.indices[index])

"""The labelled data sets of a training, read for one model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import BaseImageProcessor, PretrainedConfig, TrainingArguments

from ..data import (
    LabelMap,
    PixelDataset,
    PixelStream,
    choose_num_workers,
    is_stream,
    pixel_dataset,
    without_unreadable,
)
from .transforms import TrainTransform


@dataclass
class LabelledReading:
    """How data sets are read for a training or an evaluation.

    Args:
        config (`PretrainedConfig`):
            Of the model. Where it has no names for its classes, it takes those of the training set.
        args (`TrainingArguments`):
            Their `dataloader_num_workers` is set.
        image_processor, image_column, label_column, label_map:
            See [`optimum_snp.data.pixel_dataset`].
        num_workers (`int`, *optional*):
            Processes that read images. By default as many as `args` says, and if that is none, a number that suits
            the data set.
        skip_unreadable (`bool`):
            Whether images that cannot be read are left out, and named.
    """

    config: PretrainedConfig
    args: TrainingArguments
    image_processor: BaseImageProcessor | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_map: LabelMap | None = None
    num_workers: int | None = None
    skip_unreadable: bool = False

    def training_set(self, dataset: Any, transform: TrainTransform | None) -> PixelDataset | PixelStream | None:
        """A data set to train on; a model without names for its classes learns those of the data set."""
        if dataset is None:
            return None
        pixels = self._read(dataset, transform=transform)
        if pixels.classes.named:
            pixels.classes.name(self.config)
        return pixels

    def evaluation_sets(self, dataset: Any) -> Any:
        """A data set to evaluate on, or several by name."""
        if dataset is None:
            return None
        if isinstance(dataset, dict) and not isinstance(dataset, datasets.DatasetDict):
            return {name: self._read(part, split=None) for name, part in dataset.items()}
        return self._read(dataset, split=None)

    def _read(self, dataset: Any, **options: Any) -> PixelDataset | PixelStream:
        pixels = pixel_dataset(
            dataset,
            self.config,
            self.image_processor,
            image_column=self.image_column,
            label_column=self.label_column,
            label_map=self.label_map,
            with_labels=True,
            **options,
        )
        workers = self._set_workers(dataset, pixels)
        if self.skip_unreadable:
            pixels = without_unreadable(pixels, workers)
        if isinstance(pixels, PixelStream):
            pixels.least_images = self.args.world_size
        return pixels

    def _set_workers(self, dataset: Any, pixels: PixelDataset | PixelStream) -> int:
        if self.num_workers and is_stream(dataset) and not isinstance(dataset, datasets.IterableDataset):
            raise ValueError(
                "A stream of your own would be read by every worker as a whole, each image several times. Set "
                "num_workers to 0, or pass a datasets.IterableDataset, whose files are dealt out to them. If your "
                "stream deals out its images itself, set dataloader_num_workers in TrainingArguments."
            )
        own = self.args.dataloader_num_workers
        workers = own if self.num_workers is None and own else choose_num_workers(self.num_workers, pixels)
        self.args.dataloader_num_workers = workers
        return workers


class LabelledCollator:
    """A user's collator, whose items have their label as `"label"`, too, as collators of examples read it."""

    def __init__(self, collator: Callable[[list[Mapping[str, Any]]], dict[str, torch.Tensor]]):
        self.collator = collator

    def __call__(self, items: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of these items."""
        return self.collator([{**item, "label": item["labels"]} for item in items])

"""The images that a model is calibrated on, dealt out to the processes of Accelerate, as often as they are needed."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils import data as torch_data
from transformers import BaseImageProcessor

from ..checks import check_positive_integer
from ..data import calibration_subset, choose_num_workers, images_of_classes, pixel_dataset
from ..models import SNPModel
from ..processes import process_state
from ..structure import model_inputs
from .copies import copy_of


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationImages:
    """The chosen images of a dataset.

    Attributes:
        dataset (`torch.utils.data.Dataset`): Their pixel values.
        batch_size (`int`): Images per forward pass.
        num_workers (`int`): Processes that decode them.
    """

    dataset: torch_data.Dataset
    batch_size: int
    num_workers: int = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def part(self, places: range) -> torch.Tensor:
        """The pixel values of those at `places`, as `batches` gives them; the same on every process."""
        chosen = [self.dataset[index] for index in places]
        return model_inputs(torch_data.default_collate(chosen)).to(process_state().device)

    def others(self, places: range) -> "CalibrationImages":
        """All but those at `places`."""
        left = [index for index in range(len(self)) if index not in places]
        return replace(self, dataset=torch_data.Subset(self.dataset, left))

    def batches(self, num_copies: int = 0, seed: int = 0) -> Iterator[torch.Tensor]:
        """The pixel values `[images, channels, height, width]`, or spectrograms, of this process, on its device.

        Whole batches are dealt out in turn, so that every image is in the same company on one process or several.

        Args:
            num_copies (`int`, *optional*, defaults to 0):
                Batches of copies that follow every batch; see [`optimum_snp.calibration.copies`].
            seed (`int`, *optional*, defaults to 0):
                Of the copies, which are the same every time, on one process or several.
        """
        # No Accelerator: it would fix the precision of the process, which belongs to a Trainer that may come later.
        state = process_state()
        loader = prepare_data_loader(
            torch_data.DataLoader(self.dataset, batch_size=self.batch_size, num_workers=self.num_workers),
            device=state.device,
            num_processes=state.num_processes,
            process_index=state.process_index,
            put_on_device=True,
            even_batches=False,  # else images would be repeated to give every process as many batches
        )
        for index, batch in enumerate(loader):
            pixel_values = model_inputs(batch)
            yield pixel_values
            generator = torch.Generator().manual_seed(seed + place_of_batch(index))
            for number in range(num_copies):
                yield copy_of(pixel_values, number, generator)


def place_of_batch(index: int) -> int:
    """Which of the batches of all processes one of this process is: they are dealt out in turn."""
    state = process_state()
    return index * state.num_processes + state.process_index


def half_of(batch: torch.Tensor, index: int, half: int) -> torch.Tensor:
    """Every second image of a batch, or what a network made of it: the others are its other half.

    Half 0 begins with the first image of every other batch and the second of those between, so that batches of one
    image go to the halves in turn, and the halves are the same on one process or several.

    Args:
        batch (`torch.Tensor` of shape `[images, ...]`):
            A batch of this process.
        index (`int`):
            Which of its batches it is, from 0 on.
        half (`int`):
            0 or 1.
    """
    return batch[(place_of_batch(index) + half) % 2 :: 2]


def choose_images(
    model: SNPModel,
    dataset: Any,
    *,
    num_samples: int,
    batch_size: int = 16,
    seed: int = 42,
    image_processor: BaseImageProcessor | None = None,
    image_column: str | None = None,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
    classes: Sequence[int] | None = None,
) -> CalibrationImages:
    """At most `num_samples` images: a random choice by `seed`, or the first of a stream.

    Takes and raises what [`optimum_snp.calibration.collect_statistics`] does; with `classes`, images of these classes
    of the model alone, by the labels of the dataset.
    """
    check_positive_integer("batch_size", batch_size)
    check_positive_integer("num_samples", num_samples)
    pixels = pixel_dataset(
        dataset, model.config, image_processor, image_column=image_column, with_labels=classes is not None
    )
    if classes is not None:
        pixels = images_of_classes(pixels, classes, num_samples, seed)
    workers = choose_num_workers(num_workers, pixels)
    subset = calibration_subset(pixels, num_samples, seed, skip_unreadable=skip_unreadable, num_workers=workers)
    workers = choose_num_workers(num_workers, subset)  # fewer images, perhaps too few
    if len(subset) < num_samples:
        logger.warning(f"The dataset has {len(subset)} images; calibration asked for {num_samples} and uses all.")
    return CalibrationImages(subset, batch_size, workers)

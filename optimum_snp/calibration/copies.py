"""Copies of images that are few: shifted and mirrored ones, for what is fitted to the outputs of the dense model.

What the dense model makes of a copy is as good a target as what it makes of the image: there is no label that a mirror
could make wrong. So a copy is worth nearly as much as another image (docs/real-model.md).

Source: our choice.
"""

import torch
from transformers import PretrainedConfig

from ..structure import reads_sounds


# Of the height and width, how far a copy moves at most; what comes in from the edge repeats it.
LARGEST_SHIFT = 1 / 14

# Few images are made about so many, by at most so many copies of each (docs/real-model.md).
ENOUGH_IMAGES = 256
MOST_COPIES = 15


def check_copies(asked: int | None, model_config: PretrainedConfig) -> None:
    """Tells before any work whether there can be copies.

    Raises:
        ValueError: If they were asked for, and the model reads sounds.
    """
    if asked and reads_sounds(model_config):
        raise ValueError(
            f"reconstruction_copies={asked} shifts and mirrors images, and this model reads sounds. Leave it out."
        )


def num_copies(asked: int | None, num_images: int, model_config: PretrainedConfig) -> int:
    """How many copies of each of so many images there are: as asked for, or as many as make them enough."""
    if asked is not None:
        return asked
    return 0 if reads_sounds(model_config) else min(max(round(ENOUGH_IMAGES / num_images) - 1, 0), MOST_COPIES)


def copy_of(pixel_values: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """A copy of each image: the first is mirrored, those behind it are shifted, every other one of them mirrored too.

    Args:
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
            On any device.
        number (`int`):
            Which of the copies, from 0 on.
        generator (`torch.Generator`):
            Of the shifts, one for each image; on the CPU.

    Returns:
        `torch.Tensor`: Of the same shape, pixels of the images and no others.
    """
    images = pixel_values if number % 2 else pixel_values.flip(-1)
    return images if number == 0 else torch.stack([_shifted(image, generator) for image in images])


def _shifted(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    for dim in (-2, -1):
        size = image.shape[dim]
        farthest = round(size * LARGEST_SHIFT)
        shift = int(torch.randint(-farthest, farthest + 1, (), generator=generator))
        source = (torch.arange(size) - shift).clamp(0, size - 1)
        image = image.index_select(dim, source.to(image.device))
    return image

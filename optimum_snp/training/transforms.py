"""Random changes of training images: from torchvision where it is installed, else the basic ones by Pillow."""

import functools
import importlib
import logging
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from PIL import Image, ImageEnhance
from transformers import BaseImageProcessor

from ..structure import as_pair
from .recipes import Recipe


logger = logging.getLogger(__name__)

ASPECT_RATIOS = (3 / 4, 4 / 3)

# What Pillow changes about colours, each with its place in what a recipe calls colour jitter.
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@functools.cache
def torchvision_transforms() -> ModuleType | None:
    """`torchvision.transforms.v2`, or `None` where torchvision is missing or does not fit the installed torch."""
    try:
        return importlib.import_module("torchvision.transforms.v2")
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        logger.debug(f"torchvision cannot be imported: {error}")
        return None


class TrainTransform:
    """From an image to pixel values, with the random changes of a recipe.

    Args:
        recipe ([`Recipe`]):
            Says which.
        image_processor (`BaseImageProcessor`):
            Prepares images for the model.
        size (`int` or pair of `int`):
            Height and width of the pixel values.
    """

    def __init__(self, recipe: Recipe, image_processor: BaseImageProcessor, size: int | Sequence[int]):
        size = as_pair(size)
        v2 = torchvision_transforms()
        if v2 is None and (recipe.rand_augment or recipe.random_erasing):
            logger.warning(
                "torchvision is not installed, or not for this torch: the recipe goes without RandAugment, for which "
                "colour jitter stands in, and without random erasing."
            )
        self.processor = image_processor
        self.change = _pillow_changes(recipe, size) if v2 is None else _torchvision_changes(v2, recipe, size)
        self.erase = v2.RandomErasing(recipe.random_erasing, value="random") if v2 and recipe.random_erasing else None
        # A crop has its size already.
        self.options = {"do_resize": False, "do_center_crop": False} if recipe.crop else {}

    @classmethod
    def of(cls, recipe: Recipe | None, image_processor: Any, size: int | Sequence[int]) -> "TrainTransform | None":
        """The transform of a recipe, or `None` where the recipe leaves images as they are.

        Raises:
            ValueError: If it changes images and there is no image processor.
        """
        parts = ("crop", "flip", "rand_augment", "color_jitter", "random_erasing")
        if recipe is None or not any(getattr(recipe, part) for part in parts):
            return None
        if image_processor is None:
            raise ValueError(
                "The recipe changes images at random, but the model came without an image processor that makes them "
                f"pixel values. Pass image_processor=, or use recipe.without({', '.join(map(repr, parts))})."
            )
        return cls(recipe, image_processor, size)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Pixel values `[C, H, W]` of one image."""
        for change in self.change:
            image = change(image)
        pixel_values = self.processor(images=image, return_tensors="pt", **self.options)["pixel_values"][0].float()
        return pixel_values if self.erase is None else self.erase(pixel_values)


def _torchvision_changes(v2: ModuleType, recipe: Recipe, size: tuple[int, int]) -> list[Any]:
    changes = []
    if recipe.crop:
        bicubic = v2.InterpolationMode.BICUBIC
        changes.append(
            v2.RandomResizedCrop(size, scale=(recipe.crop, 1.0), ratio=ASPECT_RATIOS, interpolation=bicubic)
        )
    if recipe.flip:
        changes.append(v2.RandomHorizontalFlip(recipe.flip))
    if recipe.rand_augment:
        # 11 bins: its strengths are then those of timm, on a scale from 0 to 10, that DeiT's 9 is meant on.
        changes.append(v2.RandAugment(num_ops=2, magnitude=round(recipe.rand_augment), num_magnitude_bins=11))
    elif recipe.color_jitter:
        changes.append(v2.ColorJitter(*[recipe.color_jitter] * 3))
    return changes


def _pillow_changes(recipe: Recipe, size: tuple[int, int]) -> list[Any]:
    """Functions rather than closures, so that worker processes can be given them."""
    changes = []
    if recipe.crop:
        changes.append(functools.partial(random_resized_crop, size=size, least_area=recipe.crop))
    if recipe.flip:
        changes.append(functools.partial(random_flip, share=recipe.flip))
    if recipe.color_jitter:
        changes.append(functools.partial(color_jitter, strength=recipe.color_jitter))
    return changes


def random_resized_crop(image: Image.Image, size: tuple[int, int], least_area: float) -> Image.Image:
    """A random part of an image at `size` (height, width): `least_area` to 1 of its area, aspect ratio 3/4 to 4/3.

    After ten that do not fit into the image it is all of it. (From Inception, arXiv 1409.4842.)
    """
    width, height = image.size
    box = (0, 0, width, height)
    for _ in range(10):
        area = width * height * _uniform(least_area, 1.0)
        ratio = math.exp(_uniform(*map(math.log, ASPECT_RATIOS)))
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            left, top = _integer(width - part_width), _integer(height - part_height)
            box = (left, top, left + part_width, top + part_height)
            break
    return image.resize(size[::-1], Image.Resampling.BICUBIC, box=box)


def random_flip(image: Image.Image, share: float) -> Image.Image:
    """Mirrors this share of the images."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if _uniform(0, 1) < share else image


def color_jitter(image: Image.Image, strength: float) -> Image.Image:
    """Brightness, contrast and colour in random order, each times 1 - `strength` to 1 + `strength`."""
    for index in torch.randperm(len(_ENHANCERS)).tolist():
        image = _ENHANCERS[index](image).enhance(_uniform(max(0.0, 1 - strength), 1 + strength))
    return image


def _uniform(low: float, high: float) -> float:
    # From torch, whose state the Trainer saves and gives to each worker.
    return torch.empty(()).uniform_(low, high).item()


def _integer(highest: int) -> int:
    return int(torch.randint(highest + 1, ()))

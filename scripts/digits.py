"""The digits that the benchmarked models were trained on, as pixel values."""

from dataclasses import dataclass

import numpy as np
import torch

from optimum_snp.demo.data import load_digits as load_demo_digits


@dataclass
class Images:
    """Pixel values `[N, 3, 32, 32]` in [-1, 1] with classes `[N]`."""

    pixels: torch.Tensor
    labels: torch.Tensor


def load_digits() -> tuple[Images, Images]:
    """4,000 digits to calibrate on and 1,000 to test on, in the split that the models were trained with."""
    train_part, test_part = (
        _to_images(np.stack(part["image"]), np.array(part["label"])) for part in load_demo_digits(seed=0)
    )
    return train_part, test_part


def _to_images(images: np.ndarray, labels: np.ndarray) -> Images:
    pixels = torch.from_numpy(images).float().unsqueeze(1) / 255 * 2 - 1
    return Images(pixels.expand(-1, 3, -1, -1), torch.from_numpy(labels.astype(np.int64)))


def choose(images: Images, count: int, seed: int) -> Images:
    """A random choice of `count` images."""
    order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(seed))[:count]
    return Images(images.pixels[order].contiguous(), images.labels[order])

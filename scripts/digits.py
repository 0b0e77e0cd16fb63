"""The digits that the benchmarked models were trained on, as pixel values, and the accuracy on them."""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from optimum_snp.demo.data import load_digits as load_demo_digits


@dataclass
class Images:
    """Pixel values `[N, 3, 32, 32]` in [-1, 1] with classes `[N]`."""

    pixels: torch.Tensor
    labels: torch.Tensor


def digits_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks on these digits have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="folders of trained ViT, DeiT or Swin classifiers")
    parser.add_argument("--num-calibration", type=int, default=64, help="calibration images")
    parser.add_argument("--threads", type=int, help="threads of torch")
    return parser


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


@torch.inference_mode()
def measure_accuracy(model: nn.Module, images: Images, batch_size: int = 100) -> float:
    """Share of images whose highest logit is that of their class."""
    batches = zip(images.pixels.split(batch_size), images.labels.split(batch_size), strict=True)
    hits = sum(int((model(pixels).logits.argmax(-1) == labels).sum()) for pixels, labels in batches)
    return hits / len(images.labels)


@torch.inference_mode()
def measure_cross_entropy(model: nn.Module, images: Images, batch_size: int = 100) -> float:
    """Mean cross-entropy with the classes, in nats. It tells models apart whose accuracies differ by chance."""
    batches = zip(images.pixels.split(batch_size), images.labels.split(batch_size), strict=True)
    total = sum(
        nn.functional.cross_entropy(model(pixels).logits, labels, reduction="sum").item() for pixels, labels in batches
    )
    return total / len(images.labels)

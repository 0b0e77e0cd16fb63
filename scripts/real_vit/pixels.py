"""From bytes to what the models of the proving ground read."""

import torch


MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def pixel_values(images: torch.Tensor) -> torch.Tensor:
    """`[N, 3, height, width]`, normalised."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std

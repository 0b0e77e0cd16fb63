"""A small task of noise for scripts on the real ViT."""

import pytest
import torch

from tests.helpers import build_source


@pytest.fixture
def ground(tmp_path):
    """A task as `prepare_real_vit.py` leaves it: every picture is drawn five times."""
    build_source("ViTForImageClassification").save_pretrained(tmp_path / "digits" / "model")
    generator = torch.Generator().manual_seed(0)

    def images(count):
        return torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)

    pictures = torch.arange(200)[torch.randperm(200, generator=generator)] // 5
    data = {"calibration": images(200), "pictures": pictures, "x": images(20), "y": torch.arange(20) % 5}
    torch.save(data, tmp_path / "digits" / "data.pt")
    return tmp_path, data

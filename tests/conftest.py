"""Models, images and servers that many tests use: small, real, built here."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    DeiTImageProcessorPil,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from optimum_snp import drawing
from optimum_snp.calibration import copies
from tests.helpers import build_source
from tests.hub_repos import User
from tests.hub_server import HubServer


# Small matrices: a second thread costs more than it brings, and the machine is shared.
torch.set_num_threads(1)

# Reconstructions see the images of the tests alone, which are few: copies would be most of their time.
ENOUGH_IMAGES, copies.ENOUGH_IMAGES = copies.ENOUGH_IMAGES, 1


@pytest.fixture
def few_images_are_copied(monkeypatch):
    """As outside of tests."""
    monkeypatch.setattr(copies, "ENOUGH_IMAGES", ENOUGH_IMAGES)


@pytest.fixture(autouse=True)
def log_level():
    """Commands that run in this process say what they read; the level that they set ends with the test."""
    data_logger = logging.getLogger("optimum_snp.data")
    level = data_logger.level
    yield
    data_logger.setLevel(level)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that knows me, who am logged in, and others, for client code of this process."""
    tokens = {
        "hf_mine": User("me", organizations=("lab",)),
        "hf_reader": User("me", role="read"),
        "hf_limited": User("me", role="fineGrained"),  # does not tell its rights, and has none
        "hf_other": User("you"),
    }
    with HubServer(tokens=tokens) as server:
        server.patch_client(monkeypatch)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield server


DEVICES = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}


@pytest.fixture(params=[name for name, is_there in DEVICES.items() if is_there()])
def device(request):
    """Each kind of device that the machine has."""
    return request.param


@pytest.fixture
def source():
    """A random ViT classifier of transformers: 3 blocks, 4 heads, 17 tokens."""
    return build_source("ViTForImageClassification")


@pytest.fixture
def pixel_values():
    """Six random images for the models of `build_source`."""
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def image_processor():
    """Prepares PIL images for the models of `build_source`."""
    return DeiTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)


@pytest.fixture
def image_folder(tmp_path):
    """A folder of ten real digits in two classes, as a user would have it."""
    digits = load_digits()
    for index in range(10):
        folder = tmp_path / "images" / str(index % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15).astype(np.uint8)).resize((32, 32)).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.fixture
def without_matplotlib(monkeypatch):
    """A function that lets matplotlib seem not to be installed, until the test ends."""

    def hide():
        drawing.can_draw.cache_clear()
        monkeypatch.setattr(drawing.importlib.util, "find_spec", lambda name: None)

    yield hide
    drawing.can_draw.cache_clear()


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's 1,797 real digits as pixel values `[N, 3, 16, 16]` with labels; the last 500 are held out."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    return F.interpolate(images, size=16, mode="bilinear").expand(-1, 3, -1, -1), torch.tensor(data.target)


@pytest.fixture(scope="session")
def trained(digits):
    """A ViT trained on the digits above to about 95 % on those held out."""
    set_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=192,
        num_labels=10,
        initializer_range=0.1,
    )
    return train(ViTForImageClassification(config), digits, num_epochs=25)


@pytest.fixture(scope="session")
def trained_swin(digits):
    """A Swin trained on the same digits: 6 x 6 tokens in four windows, one block of them shifted, then 3 x 3."""
    set_seed(0)
    config = SwinConfig(
        image_size=16,
        patch_size=3,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[1, 2],
        window_size=3,
        drop_path_rate=0.0,
        num_labels=10,
        initializer_range=0.1,
    )
    return train(SwinForImageClassification(config), digits, num_epochs=16, learning_rate=5e-3)


def train(model, digits, num_epochs, batch_size=50, learning_rate=2e-3):
    images, labels = digits[0][:-500], digits[1][:-500]
    model.train()
    steps = num_epochs * (len(images) // batch_size + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    for _ in range(num_epochs):
        for batch in torch.randperm(len(images)).split(batch_size):
            model(images[batch], labels=labels[batch]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model.eval()

"""Random changes of training images."""

import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from optimum_snp import DistillationConfig, Recipe, SNPPruner
from optimum_snp.training import transforms
from optimum_snp.training.mixing import Mixing
from optimum_snp.training.recipes import PARTS
from optimum_snp.training.transforms import TrainTransform, color_jitter, random_flip, random_resized_crop


RECIPE = Recipe.from_preset("deit-20")


@pytest.fixture
def by_pillow(monkeypatch):
    """As where torchvision is not installed."""
    monkeypatch.setattr(transforms, "torchvision_transforms", lambda: None)


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def coordinates():
    """An image whose red tells the column and whose green the row."""
    rows, columns = np.mgrid[:150, :150]
    return Image.fromarray(np.stack([columns, rows, rows * 0], axis=-1).astype(np.uint8))


def test_crop_is_a_part_of_the_image_of_the_asked_area_and_shape():
    torch.manual_seed(0)
    areas, ratios = [], []
    for _ in range(300):
        crop = np.asarray(random_resized_crop(coordinates(), size=(50, 60), least_area=0.2)).astype(float)
        assert crop.shape == (50, 60, 3)
        width = (crop[25, -10, 0] - crop[25, 10, 0]) / 39 * 60  # away from the borders, where bicubic overshoots
        height = (crop[-10, 30, 1] - crop[10, 30, 1]) / 29 * 50
        areas.append(width * height / 150**2)
        ratios.append(width / height)
    assert 0.17 < min(areas) < 0.25
    assert 0.85 < max(areas) < 1.05
    assert 0.7 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.45


def test_image_in_which_no_such_part_fits_is_taken_whole():
    strip = Image.fromarray(np.arange(200, dtype=np.uint8)[None].repeat(2, axis=0))
    crop = np.asarray(random_resized_crop(strip, size=(4, 200), least_area=0.9))
    assert crop[0].tolist() == list(range(200))


def test_flip_mirrors_its_share(image):
    torch.manual_seed(0)
    flips = [np.array_equal(random_flip(image, 0.3), np.asarray(image)[:, ::-1]) for _ in range(300)]
    assert np.mean(flips) == pytest.approx(0.3, abs=0.08)


def test_jitter_stays_within_its_strength():
    torch.manual_seed(0)
    grey = Image.new("RGB", (4, 4), (100, 100, 100))  # whose contrast and colour cannot change
    values = [np.asarray(color_jitter(grey, 0.3))[0, 0, 0] for _ in range(200)]
    assert 69 <= min(values) < 80 and 120 < max(values) <= 130


def test_pixel_values_are_those_of_the_processor(by_pillow, image, image_processor):
    """Without a random part nothing is left but resizing and normalising."""
    recipe = Recipe(1, 1e-3, flip=1e-9).without(*set(PARTS) - {"flip"})
    found = TrainTransform(recipe, image_processor, 32)(image)
    torch.testing.assert_close(found, image_processor(images=image, return_tensors="pt")["pixel_values"][0])


def test_transform_changes_images_and_travels_to_workers(by_pillow, image, image_processor):
    transform = pickle.loads(pickle.dumps(TrainTransform(RECIPE, image_processor, (32, 24))))
    first, second = transform(image), transform(image)
    assert first.shape == (3, 32, 24)
    assert not torch.equal(first, second)
    assert first.abs().max() <= 1


def test_missing_torchvision_is_said(by_pillow, image_processor, caplog):
    with caplog.at_level(logging.WARNING):
        TrainTransform(RECIPE, image_processor, 32)
    assert "goes without RandAugment, for which colour jitter stands in" in caplog.text
    caplog.clear()
    TrainTransform(RECIPE.without("rand_augment", "random_erasing"), image_processor, 32)
    assert not caplog.text


@pytest.mark.skipif(
    transforms.torchvision_transforms() is None, reason="torchvision does not import beside this torch"
)
def test_torchvision_gives_all_parts(image, image_processor):
    transform = TrainTransform(RECIPE, image_processor, 32)
    assert [type(change).__name__ for change in transform.change] == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandAugment",
    ]
    assert transform(image).shape == (3, 32, 32)
    erased = TrainTransform(
        Recipe(1, 1e-3, random_erasing=1.0).without(*set(PARTS) - {"random_erasing"}), image_processor, 32
    )(Image.new("RGB", (32, 32)))
    assert 0 < (erased != -1).float().mean() < 1


def test_ready_pixel_values_cannot_be_transformed(source, pixel_values, image_processor, tmp_path):
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True, max_steps=1)
    pairs = [(image, 0) for image in pixel_values]
    with pytest.raises(ValueError, match="of the dataset has ready pixel values"):
        SNPPruner.from_pretrained(source, image_processor=image_processor).finetune(pairs, args=args, recipe=RECIPE)
    with pytest.raises(ValueError, match="came without an image processor"):
        SNPPruner.from_pretrained(source).finetune(pairs, args=args, recipe=RECIPE)


def test_logits_of_transformed_images_are_not_cached(source, image, image_processor, tmp_path):
    args = TrainingArguments(tmp_path, report_to="none", use_cpu=True, max_steps=1)
    pruner = SNPPruner.from_pretrained(source, image_processor=image_processor)
    options = {"args": args, "distillation": DistillationConfig(cache_logits=True), "teacher": source}
    with pytest.raises(ValueError, match="same every time"):
        pruner.finetune([(image, 0)], recipe=RECIPE.without("mixup", "cutmix"), **options)
    with pytest.raises(ValueError, match="nor with a recipe that changes or mixes them"):
        pruner.finetune([(image, 0)], recipe=RECIPE, **options)


def test_mixup_blends_neighbours_and_their_labels():
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    shares = []
    for _ in range(200):
        mixed, probabilities = Mixing(0.8, 0.0, 3)(images, labels)
        share = probabilities[0, 0].item()
        torch.testing.assert_close(mixed, share * images + (1 - share) * images[[3, 0, 1, 2]])
        expected = torch.zeros(4, 3)
        for row, (own, other) in enumerate(zip(labels, labels[[3, 0, 1, 2]], strict=True)):
            expected[row, own] += share
            expected[row, other] += 1 - share
        torch.testing.assert_close(probabilities, expected)
        shares.append(share)
    # The beta distribution with both parameters a has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), abs=0.03)


def test_cutmix_labels_are_the_shares_of_the_area():
    torch.manual_seed(0)
    images, labels = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 12, 10).contiguous(), torch.arange(3)
    shares = []
    for _ in range(100):
        mixed, probabilities = Mixing(0.0, 1.0, 3)(images, labels)
        own = (mixed == images).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(probabilities[torch.arange(3), labels], own)
        torch.testing.assert_close(probabilities[torch.arange(3), labels - 1], 1 - own)
        shares.append(own[0].item())
    assert torch.equal(images[1], torch.ones(1, 12, 10))  # the batch itself stays
    assert min(shares) < 0.3 and max(shares) > 0.9


def test_both_kinds_of_mixing_have_half_of_the_batches():
    torch.manual_seed(0)
    images, labels = torch.randn(2, 1, 6, 6), torch.tensor([0, 1])
    pasted = []
    for _ in range(200):
        mixed, _ = Mixing(50.0, 1.0, 2)(images, labels)
        pasted.append(bool(((mixed == images) | (mixed == images.roll(1, 0))).all()))
    assert np.mean(pasted) == pytest.approx(0.5, abs=0.12)

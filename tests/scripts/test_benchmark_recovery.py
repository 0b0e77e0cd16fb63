"""The benchmark of recovery has a row before training and one of every number of images and minutes."""

import json

import pytest
import torch

from tests.helpers import build_source


@pytest.mark.slow
def test_every_run_has_its_row(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    script = pytest.importorskip("benchmark_recovery")
    build_source("ViTForImageClassification").save_pretrained(tmp_path / "digits" / "model")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (220, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = {"calibration": images[:200], "pictures": torch.arange(200), "x": images[200:], "y": torch.arange(20) % 5}
    torch.save(data, tmp_path / "digits" / "data.pt")
    arguments = ["--ground", tmp_path, "--budgets", 0.5, "--methods", "snp", "projection", "--images", 8]
    arguments += ["--recovery-images", 16, "--minutes", 0.05, "--batch-size", 4, "--output", tmp_path / "results"]
    assert script.main([str(argument) for argument in [*arguments, "--threads", 1]]) == 0
    rows = json.loads((tmp_path / "results" / "recovery.json").read_text())["rows"]
    assert [row[:5] for row in rows] == [
        ["digits", 0.5, method, *trained] for method in ("snp", "projection") for trained in ([0, 0], [16, 0.05])
    ]
    assert all(row[5]["kl"] > 0 for row in rows)
    assert (tmp_path / "results" / "recovery.md").read_text().count("\n| digits | 50% | ") == 4

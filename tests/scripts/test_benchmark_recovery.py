"""The benchmark of recovery has a row before training and one of every number of images and minutes."""

import json

import pytest


@pytest.mark.slow
def test_every_run_has_its_row(ground, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    script = pytest.importorskip("benchmark_recovery")
    arguments = ["--ground", ground[0], "--budgets", 0.5, "--methods", "snp", "projection", "--images", 8]
    arguments += ["--recovery-images", 16, "--minutes", 0.05, "--batch-size", 4, "--output", tmp_path / "results"]
    assert script.main([str(argument) for argument in [*arguments, "--threads", 1]]) == 0
    rows = json.loads((tmp_path / "results" / "recovery.json").read_text())["rows"]
    assert [row[:5] for row in rows] == [
        ["digits", 0.5, method, *trained] for method in ("snp", "projection") for trained in ([0, 0], [16, 0.05])
    ]
    assert all(row[5]["kl"] > 0 for row in rows)
    assert (tmp_path / "results" / "recovery.md").read_text().count("\n| digits | 50% | ") == 4

"""The judge of methods on a small ground of noise: every method runs, at equal sizes, on images that it may see."""

import json

import pytest
import torch


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    return pytest.importorskip("proving_ground"), pytest.importorskip("real_vit.ground")


def test_pictures_are_on_one_side(scripts, ground):
    folder, data = ground
    loaded = scripts[1].load_ground(folder, "digits", num_held_out=50)
    assert len(loaded.held_out) == 50
    assert len(loaded.calibration) == 150
    found = {
        name: {int(data["pictures"][(data["calibration"] == image).flatten(1).all(1)]) for image in images}
        for name, images in (("held_out", loaded.held_out), ("calibration", loaded.calibration))
    }
    assert not found["held_out"] & found["calibration"]


@pytest.mark.parametrize("uniform", [False, True])
def test_every_method_has_its_cell(scripts, ground, uniform, tmp_path):
    script = scripts[0]
    output = tmp_path / "results"
    arguments = ["--ground", ground[0], "--tasks", "digits", "--budgets", 0.6, "--parts", "MLP=0.5", "--images", 16]
    arguments += ["--output", output, "--threads", 1, *(["--uniform"] if uniform else [])]
    assert script.main([str(argument) for argument in arguments]) == 0
    (task,) = json.loads((output / "proving_ground.json").read_text())["tasks"]
    budget, part = task["rows"].values()
    assert 0.5 < budget["flops"] <= 0.6
    assert set(part["methods"]) >= {"magnitude", "SnapViT", "VBP", "CORP", "snp", "projection"}
    assert set(budget["methods"]) >= {"magnitude", "CORP + NuWa", "snp", "snp-refit", "closed form", "projection"}
    assert not {"SnapViT", "VBP", "CORP"} & set(budget["methods"])
    for cell in (*budget["methods"].values(), *part["methods"].values()):
        assert cell["kl"] >= 0
    assert part["methods"]["projection"]["kl"] < part["methods"]["magnitude"]["kl"]
    assert (output / "proving_ground.md").read_text().count("\n| ") == 3


@pytest.mark.parametrize("reconstruct", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_losses_are_ranked(scripts, ground, reconstruct, tmp_path):
    script = pytest.importorskip("rank_losses")
    arguments = ["--ground", ground[0], "--tasks", "digits", "--images", 16, "--max-images", 10, "--joint", 4]
    arguments += ["--blocks", 1, 2, "--output", tmp_path / "results", "--threads", 1]
    arguments += ["--reconstruct"] if reconstruct else []
    assert script.main([str(argument) for argument in arguments]) == 0
    (task,) = json.loads((tmp_path / "results" / "rank_losses.json").read_text())["tasks"]
    assert {kind: len(rows) for kind, rows in task["rows"].items()} == {
        "Q/K": 4, "V": 4, "MLP": 4, "width": 4, "joint": 4, "heads": 2, "blocks": 2
    }  # fmt: skip
    assert all(row["predicted"] >= 0 and row["change"] > 0 for rows in task["rows"].values() for row in rows)
    assert script.rank_correlation([1.0, 2.0, 3.0], [5.0, 7.0, 9.0]) == pytest.approx(1)
    assert script.rank_correlation([1.0, 2.0, 3.0], [9.0, 7.0, 5.0]) == pytest.approx(-1)


def test_views_of_snapvit_are_compared_with_others(scripts):
    snapvit = pytest.importorskip("baselines.snapvit")
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    unit = [view / view.norm() for view in features]
    wanted = sum(
        -(unit[target].softmax(0) * unit[view].log_softmax(0)).sum()
        for target in range(2)
        for view in range(5)
        if view != target
    )
    assert snapvit.cross_view_loss(features) == pytest.approx(float(wanted), rel=1e-5)

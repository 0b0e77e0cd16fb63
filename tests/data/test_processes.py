"""Several processes of one job see the same classes, splits and counts as one."""

import json

import pytest

from tests.data import perfect, processes_job
from tests.helpers import torchrun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two splits of four classes in another order and spelling; three images of each split cannot be read."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("Train", 6), ("Test", 4)):
        for name in perfect.NAMES:
            path = root / split / name.upper().replace(" ", "-")
            path.mkdir(parents=True)
            for seed in range(count):
                perfect.image_of(name, seed).save(path / f"{seed}.png")
        for name in ("RED/1.png", "DARK-RED/0.png", "BLUE/3.png"):
            (root / split / name).write_bytes((root / split / name).read_bytes()[:60])
    return root


def test_two_processes_find_what_one_finds(folder, tmp_path):
    expected = processes_job.run(folder, tmp_path)
    assert expected["evaluated"] == [{"accuracy": 1.0, "top5_accuracy": 1.0}, 13]
    assert (expected["calibrated"], expected["steps"], expected["names"]) == (12, 6, "dark red")
    process = torchrun(2, processes_job.__file__, folder, tmp_path)
    assert process.returncode == 0, process.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.pop("processes") == 2
        assert found.pop("cosines") == pytest.approx(expected["cosines"], abs=1e-9)
        assert found == {name: value for name, value in expected.items() if name not in ("processes", "cosines")}
    assert (
        process.stderr.count("3 images cannot be read and are left out") == 3
    )  # calibrated, evaluated, trained: said once

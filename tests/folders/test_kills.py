"""A process may be killed at any change of files: no file of a person is gone at any instant, and the model is whole.

Where folders can be exchanged it is whole at once; elsewhere after the next load or save.
"""

import errno
import random
import shutil

import pytest

from optimum_snp.folders import recover_folder, replacing
from tests.folders.places import (
    assert_nothing_else,
    assert_whole_files_of_the_person,
    end_at,
    hidden,
    make,
    save,
    version,
)


def cannot(*_):
    raise OSError(errno.ENOSYS, "not here")


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch):
    """Of a process that is killed the system writes everything; to wait for it only takes time here."""
    for name in ("flush", "flush_names"):
        monkeypatch.setattr(replacing, name, lambda folder: None)


@pytest.fixture(params=["exchange", "move"])
def road(request, monkeypatch):
    if request.param == "move":
        monkeypatch.setattr(replacing, "exchange", cannot)
    return request.param


def test_a_kill_at_every_step_leaves_the_old_or_the_new_model(road, tmp_path):
    found, change = [], 0
    while True:
        change += 1
        folder = tmp_path / str(change) / "model"
        make(folder)
        killed = end_at(change, lambda folder=folder: save(folder, "new"))
        assert_whole_files_of_the_person(folder)
        if road == "exchange":
            version(folder)
        recover_folder(folder)
        assert_whole_files_of_the_person(folder)
        found.append(version(folder))
        save(folder, "new")
        assert_whole_files_of_the_person(folder)
        assert version(folder) == "new"
        assert_nothing_else(folder)
        if not killed:
            break
    assert found == sorted(found, reverse=True)  # old up to some step, new from there on
    assert set(found) == {"old", "new"}
    assert change > 15


@pytest.mark.parametrize("attempts", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_kill_while_the_next_process_goes_on(road, attempts, tmp_path):
    """Both killed at random steps, by seed; a third one finds the folder whole."""
    generator = random.Random(attempts)
    for attempt in range(attempts):
        folder = tmp_path / str(attempt) / "model"
        make(folder)
        end_at(generator.randint(10, 45), lambda folder=folder: save(folder, "new"))
        if attempt % 2:
            end_at(generator.randint(1, 20), lambda folder=folder: recover_folder(folder))
        else:
            end_at(generator.randint(1, 45), lambda folder=folder: save(folder, "new"))
        assert_whole_files_of_the_person(folder)
        recover_folder(folder)
        version(folder)
        save(folder, "new")
        assert_whole_files_of_the_person(folder)
        assert_nothing_else(folder)


def test_a_kill_before_anything_was_there(tmp_path):
    change = 1
    while end_at(change, lambda: save(tmp_path / "model", "new")):
        if (tmp_path / "model").exists():
            assert version(tmp_path / "model") == "new"
            shutil.rmtree(tmp_path / "model")
        change += 1
    assert hidden(tmp_path / "model") == []


def test_what_a_person_writes_while_the_model_is_replaced_is_kept(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    make(folder)
    exchange = replacing.exchange

    def write_and_exchange(ready, folder):
        (folder / "late.txt").write_text("late")
        (folder / "notes.new").write_text("edited")  # as editors save
        (folder / "notes.new").replace(folder / "notes.txt")
        exchange(ready, folder)

    monkeypatch.setattr(replacing, "exchange", write_and_exchange)
    save(folder, "new")
    assert version(folder) == "new"
    assert (folder / "late.txt").read_text() == "late"
    assert (folder / "notes.txt").read_text() == "edited"
    assert hidden(folder) == []


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing.os, "link", cannot)
    make(tmp_path / "model")
    save(tmp_path / "model", "new")
    assert_whole_files_of_the_person(tmp_path / "model")
    assert version(tmp_path / "model") == "new"
    assert_nothing_else(tmp_path / "model")


def test_a_folder_keeps_its_rights(road, tmp_path):
    folder = tmp_path / "model"
    make(folder)
    folder.chmod(0o750)
    save(folder, "new")
    assert folder.stat().st_mode & 0o777 == 0o750


def test_what_an_earlier_version_moved_away_comes_back(tmp_path, caplog):
    make(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.old-abc")
    recover_folder(tmp_path / "model")
    assert version(tmp_path / "model") == "old"
    assert_nothing_else(tmp_path / "model")
    assert "was broken off. What was there before is put back." in caplog.text


def test_a_power_cut_finds_the_model_on_the_disk_before_it_is_in_place(road, tmp_path, monkeypatch):
    """Weights that are only in memory would be gone with the names already exchanged."""
    make(tmp_path / "model")
    steps = []
    monkeypatch.setattr(
        replacing, "flush", lambda folder: steps.append(sorted(path.name for path in folder.iterdir()))
    )
    monkeypatch.setattr(replacing, "_finish", lambda ready, folder: steps.append("in place"))
    save(tmp_path / "model", "new")
    assert steps == [[".snp_journal.json", "README.md", "config.json", "model.safetensors", "pictures"], "in place"]

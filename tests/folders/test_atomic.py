"""A crash leaves the old folder or none; nothing of the user's is lost."""

import os
from pathlib import Path

import pytest

from optimum_snp.folders import atomic_folder, check_save_directory, is_model_file
from optimum_snp.folders.exchange import flush


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(folder, text, *more):
    with atomic_folder(folder) as staging:
        for name in ("config.json", "model.safetensors", *more):
            (staging / name).write_text(text)


def test_new_folder(tmp_path):
    save(tmp_path / "a" / "b", "new")
    assert names(tmp_path / "a" / "b") == ["config.json", "model.safetensors"]
    assert names(tmp_path / "a") == ["b"]


def test_crash_before_the_end_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as staging:
        (staging / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_crash_before_the_end_leaves_the_old_folder(tmp_path):
    save(tmp_path / "model", "old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "model") as staging:
        (staging / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "config.json").read_text() == "old"


def test_crash_while_replacing_brings_the_old_folder_back(tmp_path, monkeypatch):
    save(tmp_path / "model", "old")
    rename = Path.rename

    def fail_for_new(self, target):
        if ".new-" in self.name:
            raise OSError("disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="disk is gone"):
        save(tmp_path / "model", "new")
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "config.json").read_text() == "old"


def test_replacing_takes_old_weights_and_keeps_other_files(tmp_path):
    save(tmp_path / "model", "old", "model-00001-of-00002.safetensors", "pruning_plan.json", "modeling_snp_vit.py")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "model" / "checkpoint-3").mkdir()
    (tmp_path / "model" / "checkpoint-3" / "model.safetensors").write_text("mine")
    save(tmp_path / "model", "new")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["checkpoint-3", "config.json", "model.safetensors", "notes.txt"]
    assert (tmp_path / "model" / "config.json").read_text() == "new"
    assert (tmp_path / "model" / "checkpoint-3" / "model.safetensors").read_text() == "mine"


def test_files_in_folders_are_kept_beside_new_ones(tmp_path):
    with atomic_folder(tmp_path / "model") as staging:
        (staging / "pictures").mkdir()
        (staging / "pictures" / "old.png").write_text("old")
    (tmp_path / "model" / "runs" / "1").mkdir(parents=True)
    (tmp_path / "model" / "runs" / "1" / "events").write_text("mine")
    (tmp_path / "model" / "link").symlink_to(tmp_path)
    with atomic_folder(tmp_path / "model") as staging:
        (staging / "pictures").mkdir()
        (staging / "pictures" / "old.png").write_text("new")
        (staging / "pictures" / "more.png").write_text("new")
    assert names(tmp_path / "model") == ["link", "pictures", "runs"]
    assert (tmp_path / "model" / "runs" / "1" / "events").read_text() == "mine"
    assert (tmp_path / "model" / "link").is_symlink()
    assert [path.read_text() for path in (tmp_path / "model" / "pictures").iterdir()] == ["new", "new"]


def test_folder_and_files_have_the_usual_rights(tmp_path):
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "file").write_text("")
    with atomic_folder(tmp_path / "model") as staging:
        (staging / "config.json").write_text("{}")
        (staging / "config.json").chmod(0o600)
        (staging / "pictures").mkdir(mode=0o700)
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "model" / "pictures").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "model" / "config.json").stat().st_mode == (tmp_path / "usual" / "file").stat().st_mode


def test_paths_that_cannot_be_saved_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"is a file. Name a folder"):
        check_save_directory(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be written"):
        check_save_directory(tmp_path / "file" / "model")
    with pytest.raises(ValueError, match="cannot be written"):
        check_save_directory("/proc/model")


def test_what_a_link_points_to_is_replaced(tmp_path):
    save(tmp_path / "disk" / "model", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    save(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "model" / "config.json").read_text() == "new"
    assert names(tmp_path) == ["disk", "link"]


def test_mount_points_are_refused():
    with pytest.raises(ValueError, match="or is a mount point"):
        check_save_directory("/proc")


def test_working_directory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", tmp_path / "here", tmp_path):
        with pytest.raises(ValueError, match="is the working directory or holds it"):
            check_save_directory(path)
    assert check_save_directory("model") == tmp_path / "here" / "model"


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "model.safetensors.index.fp16.json",
        "modeling_snp_vit.py",
        "pictures/kept_sizes.png",
        "training_args.bin",
    ],
)
def test_files_of_a_model(name):
    assert is_model_file(name)


@pytest.mark.parametrize(
    "name",
    ["model_old.safetensors", "models/teacher.safetensors", "pictures/attention_of_my_cat.png", "onnx/config.json"],
)
def test_files_of_a_person(name):
    assert not is_model_file(name)


def test_all_files_and_names_are_flushed(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "kept_sizes.png").write_text("")
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda opened: flushed.append(os.fstat(opened).st_ino) or fsync(opened))
    flush(tmp_path)
    assert sorted(flushed) == sorted(path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*")))

"""Saving under the rules of Windows, played on another system: no exchange, nothing is renamed onto a folder, no file
that a program has open is renamed or removed, and `Path.is_mount` is missing."""

import errno
import os
import pathlib
from pathlib import Path

import pytest

from optimum_snp.folders import check_save_directory, replacing
from tests.folders.places import assert_nothing_else, assert_whole_files_of_the_person, make, save, version


@pytest.fixture
def windows(monkeypatch):
    """The rules; what it gives is a set of files that a program has open."""
    opened = set()
    rename, replace, unlink = os.rename, os.replace, os.unlink

    def refuse(path, *, target=False):
        for file in opened:
            if Path(path) == file or (not target and file.is_relative_to(path)):
                raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))

    def windows_rename(start, end, **_):
        refuse(start)
        if os.path.lexists(end):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(end))
        rename(start, end)

    def windows_replace(start, end, **_):
        refuse(start)
        refuse(end, target=True)
        if os.path.isdir(end):
            raise PermissionError(errno.EACCES, "Access is denied", str(end))
        replace(start, end)

    def windows_unlink(path, **options):
        if "dir_fd" not in options:
            refuse(path)
        unlink(path, **options)

    def cannot(*_):
        raise OSError(errno.ENOSYS, "not here")

    def is_mount(_):
        raise NotImplementedError("Path.is_mount() is unsupported on this system")

    monkeypatch.setattr(os, "rename", windows_rename)
    monkeypatch.setattr(os, "replace", windows_replace)
    monkeypatch.setattr(os, "unlink", windows_unlink)
    monkeypatch.setattr(replacing, "exchange", cannot)
    monkeypatch.setattr(pathlib.Path, "is_mount", is_mount)
    return opened


def test_the_layer_has_the_rules(windows, tmp_path):
    """Else the tests below would show nothing."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(FileExistsError):
        (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(PermissionError):
        (tmp_path / "a").replace(tmp_path / "b")
    windows.add(tmp_path / "a" / "file")
    with pytest.raises(PermissionError):
        (tmp_path / "a" / "file").replace(tmp_path / "c")
    with pytest.raises(PermissionError):
        (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(PermissionError):
        (tmp_path / "a" / "file").unlink()


def test_new_and_empty_folders(windows, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        save(tmp_path / name, "new")
        assert version(tmp_path / name) == "new"


def test_a_model_is_replaced(windows, tmp_path):
    make(tmp_path / "model")
    save(tmp_path / "model", "new")
    assert version(tmp_path / "model") == "new"
    assert_whole_files_of_the_person(tmp_path / "model")
    assert_nothing_else(tmp_path / "model")


def test_files_of_a_person_may_be_open(windows, tmp_path):
    make(tmp_path / "model")
    windows.add(tmp_path / "model" / "runs" / "1" / "events")
    save(tmp_path / "model", "new")
    assert version(tmp_path / "model") == "new"
    assert_whole_files_of_the_person(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model-00001-of-00002.safetensors"])
def test_a_model_that_a_program_has_open_stays_whole(windows, name, tmp_path):
    make(tmp_path / "model")
    windows.add(tmp_path / "model" / name)
    with pytest.raises(PermissionError, match="cannot access the file"):
        save(tmp_path / "model", "new")
    assert version(tmp_path / "model") == "old"
    assert_whole_files_of_the_person(tmp_path / "model")
    assert_nothing_else(tmp_path / "model")
    windows.clear()
    save(tmp_path / "model", "new")
    assert version(tmp_path / "model") == "new"


def test_folders_are_no_mounts_before_python_3_12(windows, tmp_path):
    assert check_save_directory(tmp_path / "model") == tmp_path / "model"
    with pytest.raises(ValueError, match="is the working directory or holds it, or is a mount point"):
        check_save_directory("/")

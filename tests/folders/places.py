"""A folder with a model and a person's files, and what must hold of it whatever happens while it is replaced."""

import os
import sys
from pathlib import Path

from optimum_snp.folders import atomic_folder


MODEL = ("config.json", "model.safetensors", "pictures/kept_sizes.png", "README.md")
OLD_ALONE = ("model-00001-of-00002.safetensors", "pruning_plan.json")  # of the old model, not of the new

# What changes files, as Python tells its audit hooks before it happens.
CHANGES = ("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")


def make(folder):
    """An old model, with files of a person beside and among those of the model."""
    save(folder, "old", OLD_ALONE)
    (folder / "notes.txt").write_text("mine")
    (folder / "pictures" / "cat.png").write_text("mine")
    (folder / "runs" / "1").mkdir(parents=True)
    (folder / "runs" / "1" / "events").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("notes.txt")
    (folder / "nowhere").symlink_to("missing")


def save(folder, text, more=()):
    """Saves a model whose files all hold one text."""
    with atomic_folder(folder) as staging:
        for name in (*MODEL, *more):
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(text)


def assert_whole_files_of_the_person(folder):
    for name in ("notes.txt", "pictures/cat.png", "runs/1/events", "link"):
        assert (folder / name).read_text() == "mine", name
    assert (folder / "empty").is_dir()
    assert os.readlink(folder / "link") == "notes.txt" and os.readlink(folder / "nowhere") == "missing"


def version(folder):
    """Which model is there, `"old"` or `"new"`, all of whose files must be, and no other."""
    text = (folder / "config.json").read_text()
    assert text in ("old", "new")
    assert {name: (folder / name).read_text() for name in MODEL} == dict.fromkeys(MODEL, text)
    assert all((folder / name).is_file() == (text == "old") for name in OLD_ALONE)
    return text


def assert_nothing_else(folder):
    """Nothing hidden is left beside the folder, and no file that neither the model nor the person has."""
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    mine = {"notes.txt", "runs", "empty", "link", "nowhere"}
    assert {path.name for path in folder.iterdir()} - mine <= {name.split("/")[0] for name in MODEL + OLD_ALONE}


def end_at(change, work):
    """Runs `work` in a process that ends like a killed one before its change number `change` of files.

    Returns:
        `bool`: Whether it was killed; else it came to its end.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event, arguments):
            nonlocal count
            if event in CHANGES and not (event == "open" and _only_reads(arguments)):
                count += 1
                if count == change:
                    os._exit(9)

        status = 1
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 9


def _only_reads(arguments):
    _path, _mode, flags = arguments
    return not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def hidden(folder):
    return sorted(path.name for path in Path(folder).parent.iterdir() if path.name.startswith("."))

"""Putting a folder in place of another so that a process may be killed at any instant, and the next one goes on.

A new folder is filled beside the old one, under a hidden name, and flushed to the disk. From then on a journal in it
says which files it brings and which it takes:

    .NAME.new-*    being filled; when its process has ended, it is rubbish
    .NAME.ready-*  with a journal: whole, and still to be put in place; without: what the exchange put out of place
    .NAME.old-*    beside a `ready`, where folders cannot be exchanged: the files that it takes
    NAME           with a journal: put in place; what is left to do is to clear away the old one

Where the system can, both folders are exchanged in one step, and the new one holds hard links of a person's files
before. Elsewhere (Windows, macOS, file systems without hard links) the files of the model are moved one by one while
a person's stay where they are; a process that is killed between leaves a mixture, which the next save or load ends.
"""

import contextlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from .exchange import exchange, flush, flush_names
from .locks import locked
from .signals import undisturbed


logger = logging.getLogger(__name__)

JOURNAL_NAME = ".snp_journal.json"


def recover_folder(save_directory: str | Path) -> None:
    """Ends what a process began that was killed while it replaced a folder; most often there is nothing to do."""
    folder = Path(save_directory).expanduser().resolve()
    is_touched = (folder / JOURNAL_NAME).is_file() or beside(folder, "ready") or beside(folder, "old")
    if not is_touched:
        return
    try:
        with lock_of(folder), undisturbed():
            recover(folder)
    except OSError as error:
        logger.warning(f"A save of {save_directory} that was broken off cannot be ended: {error}")


def lock_of(folder: Path) -> contextlib.AbstractContextManager[None]:
    """What a process holds while it fills or replaces a folder, so that any that it finds half done is nobody's."""
    return locked(folder.with_name(f".{folder.name}.lock"), f"saves to {folder}")


def beside(folder: Path, kind: str) -> list[Path]:
    """The hidden folders of a kind beside a folder."""
    if not folder.parent.is_dir():
        return []
    return sorted(path for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}.{kind}-"))


def put_in_place(staging: Path, folder: Path, is_replaced: Callable[[str], bool]) -> None:
    """Gives a filled folder the name of another one, whose other files are kept.

    Args:
        staging (`Path`):
            The filled folder, `.NAME.new-*`.
        folder (`Path`):
            The other one, if there is one.
        is_replaced (`Callable`):
            Which of its files go, by their paths in it.

    Raises:
        OSError: If that cannot be; both are as they were then.
    """
    if not folder.exists() or not any(folder.iterdir()):
        flush(staging)
        if folder.exists():
            staging.chmod(stat.S_IMODE(folder.stat().st_mode))
            folder.rmdir()
        staging.rename(folder)
        flush_names(folder.parent)
        return
    new, old = _files(staging), _files(folder)
    journal = {"new": new, "stale": [name for name in old if is_replaced(name) or name in new]}
    (staging / JOURNAL_NAME).write_text(json.dumps(journal), encoding="utf-8")
    flush(staging)
    ready = staging.with_name(staging.name.replace(".new-", ".ready-"))
    staging.rename(ready)
    try:
        _finish(ready, folder)
    except OSError:
        ready.rename(staging)  # so that nobody goes on with it
        raise


def recover(folder: Path) -> None:
    """Ends what an earlier process began, and clears away what others left; to be called by who holds the lock."""
    for ready in beside(folder, "ready"):
        if (ready / JOURNAL_NAME).is_file():
            logger.warning(f"A save of {folder} was broken off when all was written. It is put in place now.")
            _finish(ready, folder)
        elif (folder / JOURNAL_NAME).is_file():
            _clear_old(ready, folder)
        else:
            shutil.rmtree(ready)
    (folder / JOURNAL_NAME).unlink(missing_ok=True)
    for old in beside(folder, "old"):  # of an earlier version, which renamed the old folder first
        if folder.exists():
            logger.warning(f"{old} holds what an earlier version did not put back. Take from it what you miss.")
        else:
            logger.warning(f"A save of {folder} was broken off. What was there before is put back.")
            old.rename(folder)
    for staging in beside(folder, "new"):
        shutil.rmtree(staging, ignore_errors=True)


def _finish(ready: Path, folder: Path) -> None:
    """Puts a whole new folder with its journal in place of the old one.

    Raises:
        OSError: If that cannot be; both are as they were then.
    """
    journal = json.loads((ready / JOURNAL_NAME).read_text(encoding="utf-8"))
    theirs = [name for name in _files(folder) if name not in journal["stale"] and name not in journal["new"]]
    try:
        _link(theirs, folder, ready)
        ready.chmod(stat.S_IMODE(folder.stat().st_mode))
        exchange(ready, folder)
    except OSError as error:
        logger.debug(f"{folder} cannot be exchanged in one step: {error}")
        _move(ready, folder, journal)
        return
    try:
        flush_names(folder.parent)
        _clear_old(ready, folder)
    except OSError as error:  # the new one is in place, so that this is no failure
        logger.warning(f"{ready}, which {folder} replaced, cannot be removed; the next save tries again. ({error})")


def _link(names: list[str], folder: Path, into: Path) -> None:
    """Gives files of a person a second name in another folder; links are made anew."""
    for name in names:
        path, link = folder / name, into / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(link) and not link.is_dir():
            link.unlink()  # of a process that came as far and was killed
        if path.is_symlink():
            link.symlink_to(os.readlink(path))
        elif path.is_dir():
            link.mkdir(exist_ok=True)
        else:
            os.link(path, link)


def _clear_old(old: Path, folder: Path) -> None:
    """Removes a folder that was exchanged for the new one, save what a person changed in it after the links."""
    journal = json.loads((folder / JOURNAL_NAME).read_text(encoding="utf-8"))
    for name in _files(old):
        before, now = old / name, folder / name
        is_theirs = name not in journal["stale"] and name not in journal["new"]
        if not is_theirs or (before.is_dir() and not before.is_symlink()):
            continue
        if not os.path.lexists(now) or not os.path.samestat(before.lstat(), now.lstat()):
            now.parent.mkdir(parents=True, exist_ok=True)
            before.replace(now)
    shutil.rmtree(old)
    (folder / JOURNAL_NAME).unlink()


def _move(ready: Path, folder: Path, journal: dict[str, list[str]]) -> None:
    """Puts the files of `ready` into the folder one by one; a person's are not touched.

    Raises:
        OSError: If one cannot be moved, as when another program has it open; all that was moved is moved back then.
    """
    old = ready.with_name(ready.name.replace(".ready-", ".old-"))
    # What is new in the folder already is no longer in `ready`: of a process that came as far and was killed.
    stale = [name for name in journal["stale"] if name not in journal["new"] or (ready / name).exists()]
    moves = [(folder / name, old / name) for name in stale]
    moves += [(ready / name, folder / name) for name in journal["new"]]
    done: list[tuple[Path, Path]] = []
    try:
        old.mkdir(exist_ok=True)
        for start, end in moves:
            if os.path.lexists(start):
                end.parent.mkdir(parents=True, exist_ok=True)
                start.replace(end)
                done.append((start, end))
    except OSError:
        for start, end in reversed(done):
            end.replace(start)
        shutil.rmtree(old)
        raise
    flush_names(folder)
    shutil.rmtree(old)
    shutil.rmtree(ready)


def _files(folder: Path) -> list[str]:
    """Files, links and empty folders, by their paths in the folder."""
    names: list[str] = []

    def fail(error: OSError) -> None:  # what cannot be read cannot be kept
        raise error

    for parent, folders, files in os.walk(folder, onerror=fail):
        ends = [name for name in folders if Path(parent, name).is_symlink() or not os.listdir(Path(parent, name))]
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files + ends]
    return [name for name in names if name != JOURNAL_NAME]

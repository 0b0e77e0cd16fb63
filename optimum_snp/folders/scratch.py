"""Temporary folders for what is large: those that a killed process left are cleared away by the next one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .locks import is_same_file, try_lock
from .signals import ending_cleanly


_PREFIX = "optimum-snp-scratch-"
_LOCK_NAME = ".in-use"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Gives an empty folder that is gone when the block ends, also by Ctrl-C or SIGTERM."""
    _clear_abandoned()
    with ending_cleanly(), _locked_folder() as temporary:
        folder = temporary / "content"
        folder.mkdir()
        yield folder


@contextlib.contextmanager
def _locked_folder() -> Iterator[Path]:
    while True:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as temporary:
            path = Path(temporary, _LOCK_NAME)
            try:
                lock = path.open("wb")
            except FileNotFoundError:  # another process took the folder, not locked yet, for an abandoned one
                continue
            with lock:
                if try_lock(lock) and is_same_file(lock, path):
                    yield Path(temporary)
                    return


def _clear_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            with (folder / _LOCK_NAME).open("ab") as lock:
                abandoned = try_lock(lock)
                if abandoned:  # while it is locked, so that whoever made it just now takes another
                    shutil.rmtree(folder, ignore_errors=True)
            if abandoned and os.name == "nt":  # where no file is removed that a process has open
                shutil.rmtree(folder, ignore_errors=True)

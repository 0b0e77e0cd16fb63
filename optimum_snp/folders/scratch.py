"""Temporary folders for what is large: those that a killed process left are cleared away by the next one."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .locks import try_lock
from .signals import ending_cleanly


_PREFIX = "optimum-snp-scratch-"
_LOCK_NAME = ".in-use"
_SECONDS_TO_LOCK = 60  # a folder so young may be one whose process has not locked it yet


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Gives an empty folder that is gone when the block ends, also by Ctrl-C or SIGTERM."""
    _clear_abandoned()
    with (
        ending_cleanly(),
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as temporary,
        Path(temporary, _LOCK_NAME).open("wb") as lock,
    ):
        try_lock(lock)
        folder = Path(temporary, "content")
        folder.mkdir()
        yield folder


def _clear_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if time.time() - folder.stat().st_mtime < _SECONDS_TO_LOCK and not (folder / _LOCK_NAME).exists():
                continue
            with (folder / _LOCK_NAME).open("ab") as lock:
                abandoned = try_lock(lock)
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)

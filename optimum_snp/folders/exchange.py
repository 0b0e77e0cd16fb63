"""Exchanging two folders in one step, which Linux can."""

import ctypes
import errno
import os
from pathlib import Path


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of fcntl.h and linux/fs.h


def exchange(first: Path, second: Path) -> None:
    """Gives each of two folders of one file system the name of the other.

    Raises:
        OSError: If the system or the file system cannot; nothing has changed then.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        raise OSError(errno.ENOSYS, "This system cannot exchange folders")
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def flush(folder: Path) -> None:
    """Waits until a folder and all files in it are on the disk, so that a power cut finds them there."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        flush_names(Path(parent))


def flush_names(folder: Path) -> None:
    """The same for the names in a folder alone, on systems that open folders."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

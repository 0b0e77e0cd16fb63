"""Locks between processes, which the system lets go of when a process ends, however it ends."""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO


logger = logging.getLogger(__name__)

# File systems that have no locks, such as some that come over the network.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_PAUSE = 0.05  # seconds between two tries


@contextlib.contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Holds the lock file `path`, waiting for whoever holds it now; it is removed at the end.

    Args:
        path (`Path`):
            The lock file, made if need be.
        purpose (`str`):
            What the other process does, for the message that this one waits.
    """
    waits = False
    while True:
        file = path.open("a+b")
        held = try_lock(file)
        # Whoever held it before may have removed the file after this process opened it.
        if held and is_same_file(file, path):
            break
        file.close()
        if not held and not waits:
            logger.warning(f"Another process {purpose}; this one waits until that has ended.")
            waits = True
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        if os.name != "nt":
            path.unlink(missing_ok=True)  # while it is held: later it could be that of another process
        file.close()
        if os.name == "nt":  # where no file is removed that a process has open
            with contextlib.suppress(OSError):
                path.unlink()


def try_lock(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed, if nobody else has; where there are no locks it seems to."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        logger.warning(f"The file system of {file.name} has no locks: let no two processes save there at once.")
    return True


def is_same_file(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False

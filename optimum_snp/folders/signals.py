"""What ends a process from outside: Ctrl-C, and SIGTERM, which Slurm and container runtimes send."""

import contextlib
import signal
import threading
from collections.abc import Iterator


_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """While open, SIGTERM ends the process as an error does, so that what is half done is cleared away.

    A handler that somebody else has set stays. Signals reach the main thread alone, so that elsewhere nothing changes.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lets signals that arrive while it is open take effect at its end: for steps of which all or none must happen."""
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING} if _in_main_thread() else {}
    before = {number: handler for number, handler in before.items() if handler is not None}  # None: not Python's
    for number in before:
        signal.signal(number, lambda arriving, _frame: arrived.append(arriving))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

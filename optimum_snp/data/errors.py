"""What is wrong with an item of a data set, told alike by this process and by a worker."""

from typing import Any


class ItemError(ValueError):
    """An item of a data set that cannot be used; the message names it."""

    def __init__(self, message: str):
        super().__init__(_of_worker(message, type(self)))


class UnreadableImageError(ItemError):
    """An image that Pillow cannot read; `skip_unreadable` leaves such out."""


def _of_worker(message: str, kind: type[Any]) -> str:
    """The message itself, where PyTorch wraps it in the traceback of one of its workers."""
    start = f"\n{kind.__module__}.{kind.__qualname__}: "
    return message.rpartition(start)[2].rstrip("\n") if message.startswith(f"Caught {kind.__name__} ") else message

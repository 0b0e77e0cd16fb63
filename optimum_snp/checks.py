"""What is asked of a number before any work begins."""

from typing import Any


def check_positive_integer(name: str, value: Any) -> None:
    """Tells what must be a whole number from 1 on.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")

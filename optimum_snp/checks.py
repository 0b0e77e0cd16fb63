"""What is asked of a number before any work begins."""

import math
from typing import Any


def check_positive_integer(name: str, value: Any) -> None:
    """Tells what must be a whole number from 1 on.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def check_whole_number(name: str, value: Any) -> None:
    """Tells what must be a whole number from 0 on.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be an integer of at least 0, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Tells what must be a number above 0 that is finite.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0 that is finite, got {value!r}.")

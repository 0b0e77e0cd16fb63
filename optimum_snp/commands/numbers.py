"""Numbers of the command line, checked as they are read: what PyTorch makes of others is no message for a user."""

import argparse
import math

from ..configuration import LARGEST_SEED


def count(text: str) -> int:
    """A whole number from 1 on."""
    return _whole_number(text, 1, None)


def whole(text: str) -> int:
    """A whole number from 0 on."""
    return _whole_number(text, 0, None)


def seed(text: str) -> int:
    """What starts generators of random numbers."""
    return _whole_number(text, 0, LARGEST_SEED)


def positive(text: str) -> float:
    """A number above 0 that is finite."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}.")
    return value


def not_negative(text: str) -> float:
    """A number from 0 on that is finite."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0 and finite, got {text}.")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}.") from None


def _whole_number(text: str, least: int, most: int | None) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}.") from None
    if value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise argparse.ArgumentTypeError(f"must be at least {least}{upper}, got {text}.")
    return value

"""Which errors are the user's to mend, and are told in one line; all others are ours, and need their traceback."""

import dis
from pathlib import Path

from huggingface_hub.errors import HFValidationError, HTTPError


_PACKAGE = Path(__file__).parents[1]


def is_for_the_user(error: BaseException) -> bool:
    """Whether the message of an error says all that its reader needs.

    That holds for what this package raises on purpose, by a `raise` or an error of its own, and for files, disks,
    networks and names of the Hub that fail, whoever says so. The same `ValueError` that arises in an expression, here
    or elsewhere, is a fault of ours.
    """
    # Errors of this package's own kinds also come from a worker, for which PyTorch raises them.
    if isinstance(error, (OSError, HTTPError, HFValidationError)) or type(error).__module__.startswith(
        f"{_PACKAGE.name}."
    ):
        return True
    return isinstance(error, (ValueError, TypeError, ImportError, RuntimeError)) and _is_raised_here(error)


def _is_raised_here(error: BaseException) -> bool:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    code = place.tb_frame.f_code
    is_raise = code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_raise and Path(code.co_filename).is_relative_to(_PACKAGE)

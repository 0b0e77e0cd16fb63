"""Which errors are the user's to mend, and are told in one line; all others are ours, and need their traceback."""

import dis
import re
from collections.abc import Mapping
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


def in_options(message: str, flags: Mapping[str, str]) -> str:
    """A message of the library in the words of the command line: the names of arguments become those of its options.

    A message about a file of JSON or training arguments stays as it is, since there the fields have their own names.

    Args:
        message (`str`):
            What an error says.
        flags (`Mapping[str, str]`):
            The options of the command by the arguments that they stand for: `{"label_map": "--label-map"}`.
    """
    if ".json" in message or message.startswith("These training arguments"):
        return message

    def flag(match: re.Match) -> str:
        return flags[match["name"]] + (match["value"] or "")

    # A name of one word may be a word of the sentence: it counts where it gets a value, or where it is the subject.
    for names, what_follows in (
        ([name for name in flags if "_" in name], r"(?![\w'\"/(]|\.\w)"),
        ([name for name in flags if "_" not in name], r"(?==)"),
    ):
        if names:
            name = "|".join(map(re.escape, names))
            pattern = rf"(?<![\w'\"./-])(?P<name>{name})\b(?:=True\b|(?P<value>=)|{what_follows})"
            message = re.sub(pattern, flag, message)
    subject = message.partition(" ")[0]
    return message.replace(subject, flags[subject], 1) if " must be " in message and subject in flags else message


def _is_raised_here(error: BaseException) -> bool:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    code = place.tb_frame.f_code
    is_raise = code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_raise and Path(code.co_filename).is_relative_to(_PACKAGE)

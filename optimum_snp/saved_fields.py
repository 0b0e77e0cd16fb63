"""Reading JSON files and the dataclasses that were saved in them, perhaps by a later version or by nobody we know."""

import json
import logging
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar


logger = logging.getLogger(__name__)

Saved = TypeVar("Saved")

# Far more than a plan of many steps takes; small enough that what Python makes of it fits anywhere.
_MOST_BYTES = 8_000_000


def read_json(path: str | Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ValueError: If it holds something else, or cannot be read; the message names the file.
    """
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES / 1e6:.0f} MB")
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds no object, but {'nothing' if values is None else type(values).__name__}")
    except (ValueError, RecursionError) as error:  # both errors of JSON and of UTF-8 are ValueErrors
        raise ValueError(f"{path} cannot be read: {error}") from error
    return values


def check_types(saved: Any, where: str) -> None:
    """Tells whether the plain fields of a dataclass, numbers and texts, hold what they are declared as.

    Raises:
        ValueError: If one does not, or is NaN or infinite.
    """
    for name, hint in typing.get_type_hints(type(saved)).items():
        allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not set(allowed) <= {int, float, str, bool, type(None)}:
            continue
        value = getattr(saved, name)
        is_one = type(value) in allowed or (type(value) is int and float in allowed)
        if not is_one or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{where}: {name} cannot be {value!r}.")


def read_fields(kind: type[Saved], values: Mapping[str, Any], where: str) -> Saved:
    """An object of a dataclass from its saved fields; those that it does not know are left out with a warning.

    Args:
        kind (`type`):
            The dataclass.
        values (`Mapping[str, Any]`):
            Its fields by name.
        where (`str`):
            What the warning calls the place that they come from.

    Raises:
        TypeError: If `values` is no mapping, or a field without default is missing.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{where} must hold the fields of one {kind.__name__}, got {type(values).__name__}.")
    known = {option.name for option in fields(kind)}
    unknown = sorted(values.keys() - known)
    if unknown:
        logger.warning(f"{where} has fields that this version does not know: {', '.join(unknown)}.")
    return kind(**{name: value for name, value in values.items() if name in known})

"""Reading dataclasses that were saved as JSON, perhaps by a later version."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar


logger = logging.getLogger(__name__)

Saved = TypeVar("Saved")


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

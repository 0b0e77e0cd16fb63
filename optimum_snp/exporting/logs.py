"""Other packages' remarks, kept from the user where they tell nothing."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """The logger of this name, and those below it, tell errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)

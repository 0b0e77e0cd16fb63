"""Takes a torchvision that does not fit the installed torch out of the way, before transformers trips over it.

transformers imports torchvision wherever it is installed, so that one that was built for another torch makes every
import of a model fail. Without torchvision, transformers prepares images with Pillow, which is all that we need.
"""

import contextlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator


logger = logging.getLogger(__name__)


def hide_broken_torchvision() -> bool:
    """Lets a torchvision that cannot be imported count as missing in this process, with a warning.

    Returns:
        `bool`: Whether it had to.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # whatever a library that does not load raises: ImportError, RuntimeError, OSError
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # how Python marks what cannot be imported
        logger.warning(
            f"torchvision is installed but does not fit the installed torch ({error}), so it goes unused: images are "
            "prepared with Pillow. Install the torchvision that belongs to this torch, or remove it."
        )
        return True
    return False


@contextlib.contextmanager
def quiet_about_pillow() -> Iterator[None]:
    """While open, transformers does not advise to install torchvision where it takes Pillow instead."""

    def is_other(record: logging.LogRecord) -> bool:
        return "requires torchvision (not installed); falling back" not in record.getMessage()

    adviser = logging.getLogger("transformers.utils.import_utils")
    adviser.addFilter(is_other)
    try:
        yield
    finally:
        adviser.removeFilter(is_other)


hide_broken_torchvision()

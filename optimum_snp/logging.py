"""The library's logger, below transformers' so that its verbosity settings and handlers apply."""

import logging

from transformers.utils import logging as transformers_logging


def get_logger(name: str) -> logging.Logger:
    """The logger of the module `name`, with the verbosity of transformers."""
    return transformers_logging.get_logger(f"transformers.{name}")

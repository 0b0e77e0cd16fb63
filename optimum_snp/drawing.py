"""What all pictures share.

matplotlib is needed only where a picture is drawn, and imported only then. Its global state is left alone. Colours are
those of Okabe and Ito, told apart with every kind of colour blindness.
"""

import functools
import importlib.util
import logging


logger = logging.getLogger(__name__)

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#555555"

WIDTH = 8.0  # inches
DPI = 150


@functools.cache
def can_draw() -> bool:
    """Whether matplotlib is installed; if not, the log says once what to install."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("There are no pictures, because matplotlib is not installed: pip install optimum-snp[plots]")
        return False
    return True

"""Models side by side: what they get right, how far they are from the first, what they cost."""

from .compare import compare
from .compared import Comparison, Row


__all__ = ["Comparison", "Row", "compare"]

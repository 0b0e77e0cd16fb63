"""Refitting a pruned network block by block to what the dense one makes of the calibration images."""

from .dropped import compensated_errors
from .sequence import reconstruct


__all__ = ["compensated_errors", "reconstruct"]

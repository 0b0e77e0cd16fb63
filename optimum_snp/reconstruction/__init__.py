"""Refitting a pruned network block by block to what the dense one makes of the calibration images."""

from .dropped import compensated_losses
from .sequence import reconstruct


__all__ = ["compensated_losses", "reconstruct"]

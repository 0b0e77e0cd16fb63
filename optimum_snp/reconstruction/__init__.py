"""Refitting a pruned network block by block to what the dense one makes of the calibration images."""

from .sequence import reconstruct


__all__ = ["reconstruct"]

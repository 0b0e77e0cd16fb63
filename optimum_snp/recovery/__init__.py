"""Training on unlabelled images, for minutes, against the dense model."""

from .recovery import Recovery, recover


__all__ = ["Recovery", "recover"]

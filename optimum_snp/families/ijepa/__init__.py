"""I-JEPA."""

from .family import IJepaFamily


__all__ = ["IJepaFamily"]

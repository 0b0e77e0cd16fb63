"""Swin of transformers, in our architecture (transformers >= 5.9)."""

from .family import SwinFamily


__all__ = ["SwinFamily"]

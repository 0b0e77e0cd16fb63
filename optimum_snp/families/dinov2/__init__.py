"""DINOv2 of transformers, with and without register tokens, in our architecture of a ViT (transformers >= 5.18)."""

from .family import DINOv2Family


__all__ = ["DINOv2Family"]

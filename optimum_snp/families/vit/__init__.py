"""ViT of transformers, in our architecture of the same layout (transformers >= 5.9)."""

from .family import ViTFamily


__all__ = ["ViTFamily"]

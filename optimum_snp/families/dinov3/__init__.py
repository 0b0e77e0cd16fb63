"""DINOv3 of transformers, its ViTs, in our architecture of a ViT with rotary positions."""

from .family import DINOv3Family


__all__ = ["DINOv3Family"]

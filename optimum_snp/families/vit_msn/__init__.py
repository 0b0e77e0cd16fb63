"""ViT-MSN."""

from .family import ViTMSNFamily


__all__ = ["ViTMSNFamily"]

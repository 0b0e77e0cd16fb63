"""The encoder of ViT-MAE."""

from .family import ViTMAEFamily


__all__ = ["ViTMAEFamily"]

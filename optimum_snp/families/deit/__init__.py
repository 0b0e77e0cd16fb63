"""DeiT of transformers, a ViT that may have a distillation token and a second classifier."""

from .family import DeiTFamily


__all__ = ["DeiTFamily"]

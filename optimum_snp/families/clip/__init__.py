"""The vision towers of CLIP and MetaCLIP 2."""

from .family import CLIPFamily


__all__ = ["CLIPFamily"]

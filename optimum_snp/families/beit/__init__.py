"""BEiT of transformers, in our architecture of a ViT with biases by relative position."""

from .family import BeitFamily


__all__ = ["BeitFamily"]

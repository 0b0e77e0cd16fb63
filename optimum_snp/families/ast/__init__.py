"""The audio spectrogram transformer (AST) of transformers, in an architecture of its own over that of a ViT."""

from .family import ASTFamily


__all__ = ["ASTFamily"]

"""The vision towers of SigLIP, and of SigLIP 2 at one resolution."""

from .family import SigLIPFamily


__all__ = ["SigLIPFamily"]

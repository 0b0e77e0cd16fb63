"""Plain ViTs and Swins of timm, behind the wrappers of transformers (`pip install 'optimum-snp[timm]'`).

timm itself is imported only where a model of it is at hand.
"""

from .family import TimmFamily


__all__ = ["TimmFamily"]

"""data2vec-vision of transformers: a BEiT under other names."""

from .family import Data2VecVisionFamily


__all__ = ["Data2VecVisionFamily"]

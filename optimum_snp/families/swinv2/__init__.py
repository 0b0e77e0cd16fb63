"""Swin V2 of transformers, in our architecture of a Swin."""

from .family import SwinV2Family


__all__ = ["SwinV2Family"]

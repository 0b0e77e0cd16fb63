"""Models in formats of other runtimes."""

from .onnx import export_onnx


__all__ = ["export_onnx"]

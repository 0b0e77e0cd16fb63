"""Latency of models side by side."""

from .latency import measure_latency


__all__ = ["measure_latency"]

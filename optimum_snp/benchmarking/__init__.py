"""Latency of models side by side."""

from .latency import measure_latency
from .machine import machine_name


__all__ = ["machine_name", "measure_latency"]

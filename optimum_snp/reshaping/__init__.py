"""From a model and a plan to a smaller model of the same architecture."""

from .select import select_neurons


__all__ = ["select_neurons"]

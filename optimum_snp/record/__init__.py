"""The record of a model: the model itself, the plan that it was pruned by, what was measured of it and its origin."""

from .measurements import Measurements
from .origin import Origin, read_origin
from .record import ModelRecord


__all__ = ["Measurements", "ModelRecord", "Origin", "read_origin"]

"""Unlabelled images through the model: from any dataset to small additive statistics."""

from .collect import collect_statistics
from .statistics import CalibrationStatistics, model_fingerprint


__all__ = ["CalibrationStatistics", "collect_statistics", "model_fingerprint"]

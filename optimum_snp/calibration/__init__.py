"""Unlabelled images through the model: from any dataset to small additive statistics."""

from .collect import collect_statistics
from .fingerprint import fingerprint_of_version_0_1, model_fingerprint
from .statistics import CalibrationStatistics


__all__ = ["CalibrationStatistics", "collect_statistics", "fingerprint_of_version_0_1", "model_fingerprint"]

"""Unlabelled images through the model: from any dataset to small additive statistics."""

from .collect import collect_from_images, collect_statistics
from .images import CalibrationImages, choose_images
from .statistics import CalibrationStatistics, model_fingerprint


__all__ = [
    "CalibrationImages",
    "CalibrationStatistics",
    "choose_images",
    "collect_from_images",
    "collect_statistics",
    "model_fingerprint",
]

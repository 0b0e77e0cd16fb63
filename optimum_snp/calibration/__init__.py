"""Unlabelled images through the model: from any dataset to small additive statistics."""

from .collect import collect_from_images, collect_statistics, statistics_of_batch
from .fingerprint import fingerprint_of_version_0_1, model_fingerprint
from .images import CalibrationImages, choose_images
from .statistics import CalibrationStatistics


__all__ = [
    "CalibrationImages",
    "CalibrationStatistics",
    "choose_images",
    "collect_from_images",
    "collect_statistics",
    "fingerprint_of_version_0_1",
    "model_fingerprint",
    "statistics_of_batch",
]

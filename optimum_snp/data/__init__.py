"""What a class, a folder and a pixel mean: from any data set to pixel values and labels of a model."""

from .choosing import calibration_subset, images_of_classes, without_unreadable
from .classes import LabelMap, ModelClasses
from .errors import ItemError, UnreadableImageError
from .folders import load_image_folder
from .labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, predicts_one_class, problem_type
from .leaves import is_stream
from .names import has_names
from .pixels import PixelDataset, PixelStream, pixel_dataset
from .workers import check_num_workers, choose_num_workers


__all__ = [
    "MULTI_LABEL",
    "REGRESSION",
    "SINGLE_LABEL",
    "ItemError",
    "LabelMap",
    "ModelClasses",
    "PixelDataset",
    "PixelStream",
    "UnreadableImageError",
    "calibration_subset",
    "check_num_workers",
    "choose_num_workers",
    "has_names",
    "images_of_classes",
    "is_stream",
    "load_image_folder",
    "pixel_dataset",
    "predicts_one_class",
    "problem_type",
    "without_unreadable",
]

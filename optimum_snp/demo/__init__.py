"""The main job on embedded real images, without network."""

from .dense import DENSE_MODELS
from .story import DemoReport, run_demo


__all__ = ["DENSE_MODELS", "DemoReport", "run_demo"]

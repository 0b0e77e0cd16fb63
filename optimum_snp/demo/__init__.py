"""The main job on embedded real images, without network."""

from .story import DemoReport, run_demo


__all__ = ["DemoReport", "run_demo"]

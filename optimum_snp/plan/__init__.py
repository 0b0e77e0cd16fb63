"""The plan: what of a model stays, and the sizes that it gives every part."""

from .plan import PROJECTED, BlockPlan, PruningPlan, WidthPlan


__all__ = ["PROJECTED", "BlockPlan", "PruningPlan", "WidthPlan"]

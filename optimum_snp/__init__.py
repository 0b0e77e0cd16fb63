"""Structured Neuron-level Pruning (SNP) for Vision Transformers of Hugging Face transformers."""

from . import torchvision  # noqa: F401, before anything of transformers
from .configuration import SNPConfig
from .plan.plan import PruningPlan
from .pruner import SNPPruner
from .training import DistillationConfig, Recipe
from .version import __version__


__all__ = ["DistillationConfig", "PruningPlan", "Recipe", "SNPConfig", "SNPPruner", "__version__"]

"""Structured Neuron-level Pruning (SNP) for Vision Transformers of Hugging Face transformers."""

from .configuration import SNPConfig
from .plan.plan import PruningPlan
from .pruner import SNPPruner
from .training import DistillationConfig, Recipe


__version__ = "0.1.0"

__all__ = ["DistillationConfig", "PruningPlan", "Recipe", "SNPConfig", "SNPPruner", "__version__"]

"""Fine-tuning and evaluation through `transformers.Trainer`, with a teacher and by a recipe if asked."""

from .checkpoints import CompleteCheckpoints
from .distillation import DistillationConfig
from .recipes import Recipe
from .trainer import build_trainer, evaluate_accuracy


__all__ = ["CompleteCheckpoints", "DistillationConfig", "Recipe", "build_trainer", "evaluate_accuracy"]

"""Fine-tuning and evaluation through `transformers.Trainer`, with a teacher and by a recipe if asked."""

from .checkpoints import checkpoint_to_resume, list_checkpoints
from .distillation import DistillationConfig
from .recipes import Recipe
from .trained import trained_model
from .trainer import build_trainer, evaluate_accuracy


__all__ = [
    "DistillationConfig",
    "Recipe",
    "build_trainer",
    "checkpoint_to_resume",
    "evaluate_accuracy",
    "list_checkpoints",
    "trained_model",
]

"""Fine-tuning and evaluation through `transformers.Trainer`."""

from .checkpoints import CompleteCheckpoints
from .trainer import build_trainer, evaluate_accuracy


__all__ = ["CompleteCheckpoints", "build_trainer", "evaluate_accuracy"]

"""Fine-tuning and evaluation through `transformers.Trainer`."""

from .trainer import build_trainer, evaluate_accuracy


__all__ = ["build_trainer", "evaluate_accuracy"]

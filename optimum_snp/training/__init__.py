"""Fine-tuning and evaluation through `transformers.Trainer`, with a teacher if there is one."""

from .checkpoints import CompleteCheckpoints
from .distillation import DistillationConfig
from .trainer import build_trainer, evaluate_accuracy


__all__ = ["CompleteCheckpoints", "DistillationConfig", "build_trainer", "evaluate_accuracy"]

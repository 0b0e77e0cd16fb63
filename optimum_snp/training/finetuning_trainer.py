"""`transformers.Trainer` with a teacher."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from .distillation import TEACHER_LOGITS, Teacher


class FineTuningTrainer(Trainer):
    """A [`~transformers.Trainer`] whose model may learn from a teacher; evaluation is the Trainer's own.

    Args:
        teacher ([`Teacher`], *optional*):
            Whom the model learns from, beside the labels.
    """

    def __init__(self, *args: Any, teacher: Teacher | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher = teacher
        if teacher is not None:
            self.loss_is_scaled_for_ga = False  # ours is the mean over one batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """In training with a teacher that of [`Teacher.loss`]; else as in [`~transformers.Trainer`]."""
        if self.teacher is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        labels, teacher_logits = inputs.pop("labels"), inputs.pop(TEACHER_LOGITS, None)
        if teacher_logits is None:
            teacher_logits = self.teacher(inputs["pixel_values"])
        outputs = model(**inputs)
        loss = self.teacher.loss(outputs, labels, teacher_logits, self.args.label_smoothing_factor)
        return (loss, outputs) if return_outputs else loss

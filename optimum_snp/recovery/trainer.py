"""A `transformers.Trainer` whose loss is the distance from the dense model."""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction
from transformers.trainer_callback import PrinterCallback

from ..structure import model_inputs
from ..training.checkpoints import CheckpointingTrainer
from .targets import LOGITS, TARGET, OutputReader, distance


# Biases may be zero, and are to move all the same.
_LEAST_SIZE = 1e-4


class RecoveryTrainer(CheckpointingTrainer):
    """A [`~transformers.Trainer`] on [`TaughtImages`]; evaluation gives the distance as its loss, and the agreement.

    Its learning rate is relative to the size of each weight. A step of Adam moves all entries by about the learning
    rate, and the weights of a pruned model differ in size by orders of magnitude: layer scale is folded into some, and
    closed forms choose bases of their own.

    Args:
        spreads (`dict[str, float]`):
            See [`distance`].
    """

    def __init__(self, *args: Any, spreads: dict[str, float], **kwargs: Any):
        super().__init__(*args, compute_metrics=_agreement, **kwargs)
        self.spreads = spreads
        self.reader = OutputReader(self.model)
        self.remove_callback(PrinterCallback)  # nothing prints but progress bars

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """The optimizer of the arguments, with a learning rate of its own for every weight."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            rate = options.pop("lr")
            groups = [
                {"params": [weight], "lr": rate * max(_root_mean_square(weight), _LEAST_SIZE)}
                for weight in self.model.parameters()
                if weight.requires_grad
            ]
            self.optimizer = optimizer_class(groups, lr=rate, **options)
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The distance of the model's outputs from the targets that come with the images."""
        outputs = self.reader.read(partial(model, model_inputs(inputs)))
        targets = {name.removeprefix(TARGET): tensor for name, tensor in inputs.items() if name.startswith(TARGET)}
        loss = distance(outputs, targets, self.spreads)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The loss, and where there are logits the first classes of the model and of the dense one."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if LOGITS not in outputs:
            return loss.detach(), None, None
        return loss.detach(), outputs[LOGITS].argmax(dim=-1), inputs[TARGET + LOGITS].argmax(dim=-1)


def _root_mean_square(weight: torch.Tensor) -> float:
    return float(weight.detach().float().square().mean().sqrt())


def _agreement(prediction: EvalPrediction) -> dict[str, float]:
    return {"agreement": float((prediction.predictions == prediction.label_ids).mean())}

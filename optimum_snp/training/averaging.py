"""The moving average of the weights over a training."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)

AVERAGE_NAME = "averaged.safetensors"


class WeightAverage(TrainerCallback):
    """Keeps an exponential moving average of a model's weights, also over a training that is resumed.

    After n steps it keeps min(`decay`, (1 + n) / (10 + n)) of itself, so that weights from before the training do not
    outlive a short one.

    Args:
        model (`nn.Module`): Whose weights are averaged.
        decay (`float`): How much of the average stays in a step, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float):
        def update(average: torch.Tensor, current: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
            kept = torch.clamp((1 + steps) / (10 + steps), max=decay)
            return torch.lerp(current, average, kept.to(average.dtype))

        self.model = model
        self.averaged = AveragedModel(model, avg_fn=update)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Takes the new weights into the average."""
        self.averaged.update_parameters(self.model)

    def save(self, folder: str | Path) -> None:
        """Writes the average beside the weights of a checkpoint, which are the latest."""
        tensors = {name: tensor.contiguous() for name, tensor in self.averaged.state_dict().items()}
        save_file(tensors, Path(folder, AVERAGE_NAME))

    def load(self, checkpoint: str | Path) -> None:
        """Goes on from the average of a checkpoint; without one it starts anew, with a warning."""
        path = Path(checkpoint, AVERAGE_NAME)
        if path.is_file():
            self.averaged.load_state_dict(load_file(path))
        else:
            logger.warning(f"{checkpoint} has no average of the weights; it starts anew.")

    def apply(self) -> None:
        """Gives the model the average, once there is one."""
        if self.averaged.n_averaged > 0:
            _exchange(self.model, self.averaged.module)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the average for a while."""
        self.apply()
        try:
            yield
        finally:
            self.apply()  # exchanges them back


@torch.no_grad()
def _exchange(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        kept = mine.clone()
        mine.copy_(theirs)
        theirs.copy_(kept)

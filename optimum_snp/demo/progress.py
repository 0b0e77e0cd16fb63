"""What the demo says while it works: one line per stage."""

import logging
import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)

_STEPS_TO_TIME = 20


class Stages:
    """Numbers the stages of one demo.

    Args:
        name (`str`): What is shown, at the start of every line.
        total (`int`): How many stages there are.
    """

    def __init__(self, name: str, total: int):
        self.name, self.total, self.number = name, total, 0

    def start(self, what: str) -> None:
        """Says that the next stage starts, which takes some seconds."""
        logger.info(self._line(what))

    def start_training(self, what: str) -> TrainerCallback:
        """A callback that says so once a few steps have told how long the stage takes."""
        return _TimeLeft(self._line(what))

    def _line(self, what: str) -> str:
        self.number += 1
        return f"{self.name}, {self.number} of {self.total}: {what}"


class _TimeLeft(TrainerCallback):
    def __init__(self, line: str):
        self.line, self.start = line, 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if state.global_step == 1:  # the first takes longer than others
            self.start = time.monotonic()
        if state.global_step == min(_STEPS_TO_TIME, state.max_steps):
            steps = max(1, state.global_step - 1)
            left = (time.monotonic() - self.start) / steps * (state.max_steps - state.global_step)
            logger.info(f"{self.line}, {left:.0f} s left")

"""What a Trainer leaves out of the checkpoints that it saves and pushes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


class CompleteCheckpoints(TrainerCallback):
    """Adds its history to every checkpoint, and the modeling code to what is pushed in the course of training.

    Without them a checkpoint would not know how it was pruned, and a repository would not load before training ends.

    Args:
        write_history (`Callable[[Path], None]`):
            Writes plan, recipe and measurements into a folder.
    """

    def __init__(self, write_history: Callable[[Path], None]) -> None:
        self.write_history = write_history

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Completes the checkpoint that was just saved."""
        checkpoint = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and checkpoint.is_dir():
            self.write_history(checkpoint)

    def on_push_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Completes what is about to be pushed: the last checkpoint, and the output folder with its weights."""
        self.on_save(args, state, control)
        checkpoint = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and checkpoint.is_dir():
            self.write_history(Path(args.output_dir))
            for code in checkpoint.glob("*.py"):
                shutil.copy(code, args.output_dir)

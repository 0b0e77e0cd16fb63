"""Checkpoints that load, know how their model was pruned, and tell whether they were written to the end."""

import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..devices import unwrap
from ..families.checks import weight_not_finite
from ..processes import any_process, process_state
from .whole import RNG_STATES, fault_of_checkpoint


logger = logging.getLogger(__name__)


def forget_earlier_trainers(model: nn.Module) -> None:
    """Lets a Trainer start on a model as if there had been none before it, for evaluation say.

    That one marked the model as wrapped and fixed the precision of the process.
    """
    unwrap(model)
    AcceleratorState._reset_state()


class DivergedError(ValueError):
    """A training whose weights have become NaN or infinite."""


class CheckpointingTrainer(Trainer):
    """A [`~transformers.Trainer`] with plan and history in every checkpoint, and the state of the training last.

    A process that is killed leaves no `trainer_state.json`: whatever else a checkpoint holds was written before. Of a
    training that diverged nothing is saved.

    Args:
        write_history (`Callable[[Path], None]`, *optional*):
            Writes plan, recipe and measurements into the folder of a checkpoint.
    """

    def __init__(self, *args: Any, write_history: Callable[[Path], None] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.write_history = write_history
        self.add_callback(CompletePushes())

    def get_train_dataloader(self) -> DataLoader:
        """As in [`~transformers.Trainer`], drawing nothing from the generator of the process."""
        return self._with_generator(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As in [`~transformers.Trainer`], drawing nothing from the generator of the process."""
        return self._with_generator(super().get_eval_dataloader(eval_dataset))

    def _with_generator(self, loader: DataLoader) -> DataLoader:
        """Gives a loader a generator of its own, from which it draws the seed of its workers each time they start.

        A training that is resumed starts them at other times than one without a break, and would change all later
        draws, of dropout for example.
        """
        generator = torch.Generator().manual_seed(self.args.seed + self.args.process_index)
        getattr(loader, "base_dataloader", loader).generator = generator
        return loader

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model, as in [`~transformers.Trainer`], and its history.

        Raises:
            DivergedError: As [`check_weights`].
        """
        self.check_weights()
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save:  # over an older checkpoint, if there is one, which is no longer whole
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        with _without_fsdp_class(self.model):
            super().save_model(output_dir, _internal_call)
        if self.args.should_save and self.write_history is not None:
            self.write_history(folder)

    def check_weights(self) -> None:
        """Tells whether the training diverged.

        Raises:
            DivergedError: If a weight is NaN or infinite, on any process.
        """
        name = weight_not_finite(self.model)
        if not any_process(name is not None):
            return
        last = last_whole_checkpoint(self.args.output_dir)
        remedy = f"{last} is the last checkpoint before that" if last else "there is no checkpoint before that"
        raise DivergedError(
            f"The training diverged: after {self.state.global_step} steps {name or 'a weight of another process'} is "
            f"NaN or infinite. Nothing of it is saved, and {remedy}. Train with a lower learning rate, or in float32."
        )

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # each process writes its own; the state of the training comes after all


class CompletePushes(TrainerCallback):
    """Adds modeling code and history to what a Trainer pushes in the course of training: its output folder.

    Without the code a repository would not load before training ends.
    """

    def on_push_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Copies them from the checkpoint that was just saved."""
        checkpoint = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if args.should_save and checkpoint.is_dir():
            for file in (*checkpoint.glob("*.py"), *checkpoint.glob("snp_*.json"), *checkpoint.glob("pruning_*.json")):
                shutil.copy(file, args.output_dir)


def checkpoint_to_resume(output_dir: str | Path, resume_from_checkpoint: str | Path | bool | None) -> str | None:
    """The checkpoint that a training goes on from.

    Args:
        output_dir (`str` or `Path`):
            Where the training keeps its checkpoints.
        resume_from_checkpoint (`str`, `Path`, `bool` or `None`):
            A checkpoint, or `True` for the last whole one of `output_dir`.

    Returns:
        `str` or `None`: Its folder; `None` for a training from the beginning, which is also what `True` means as long
        as there is none, so that a job which may be killed at any time can always be started by the same command.

    Raises:
        ValueError: If the named checkpoint does not exist or was not written to the end.
    """
    if resume_from_checkpoint is None or resume_from_checkpoint is False:
        if checkpoints := list_checkpoints(output_dir):
            logger.warning(
                f"{output_dir} holds checkpoints of an earlier training, up to {checkpoints[-1].name}. This one "
                "starts from the beginning; before it is resumed, remove them."
            )
        return None
    if resume_from_checkpoint is not True:
        if fault := fault_of_checkpoint(Path(resume_from_checkpoint)):
            raise ValueError(
                f"{resume_from_checkpoint} is no checkpoint that was written to the end: {fault}. With "
                f"resume_from_checkpoint=True the last whole one of {output_dir} is taken."
            )
        _warn_of_other_processes(Path(resume_from_checkpoint))
        return str(resume_from_checkpoint)
    for checkpoint in reversed(list_checkpoints(output_dir)):
        fault = fault_of_checkpoint(checkpoint)
        if fault is None:
            _warn_of_other_processes(checkpoint)
            return str(checkpoint)
        logger.warning(f"{checkpoint} was not written to the end and is skipped: {fault}.")
    logger.warning(f"{output_dir} has no checkpoint to go on from. Training starts from the beginning.")
    return None


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders of all checkpoints, whole or not, the oldest first."""
    folders = {
        int(match.group(1)): path
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)) and path.is_dir()
    }
    return [folders[step] for step in sorted(folders)]


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The latest checkpoint that a training can go on from."""
    whole = (path for path in reversed(list_checkpoints(output_dir)) if fault_of_checkpoint(path) is None)
    return next(whole, None)


def _warn_of_other_processes(checkpoint: Path) -> None:
    processes = process_state().num_processes
    names = {"rng_state.pth"} if processes == 1 else {f"rng_state_{index}.pth" for index in range(processes)}
    if {path.name for path in checkpoint.glob(RNG_STATES)} != names:
        logger.warning(
            f"{checkpoint} was written by another number of processes than the {processes} of this job, so that its "
            "random numbers start anew: the training does not end as one without a break."
        )


@contextlib.contextmanager
def _without_fsdp_class(model: nn.Module) -> Iterator[None]:
    """While open, a model that FSDP shards is of its own class again, whose code is what must be saved with it."""
    fsdp_class = type(model)
    if fsdp_class.__name__.startswith("FSDP") and len(fsdp_class.__bases__) == 2:
        model.__class__ = fsdp_class.__bases__[1]
    try:
        yield
    finally:
        model.__class__ = fsdp_class

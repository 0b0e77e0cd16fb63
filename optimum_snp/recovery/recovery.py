"""Minutes of training on unlabelled images that bring a pruned model closer to the dense one.

The learning rate is found by a few trial steps from the same start, since one that is right for one model ruins
another within a hundred steps. The number of steps follows from the minutes and the time that trial steps took. Images
that are held back say which of the states along the way is the best; the result is that one, or the start if none is
better.
"""

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import data as torch_data
from transformers import TrainingArguments

from ..calibration import CalibrationImages
from ..checks import check_positive
from ..models import SNPModel
from ..processes import process_state, run_on_main_process
from ..training.checkpoints import DivergedError, checkpoint_to_resume, forget_earlier_trainers
from ..training.compiling import check_backend
from .targets import check_comparable, with_targets
from .trainer import RecoveryTrainer


logger = logging.getLogger(__name__)

# Relative to the size of each weight.
LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
TRIAL_STEPS = 12
# An eighth of the images is held back, but not so few that they say nothing (docs/real-model.md), nor more than half.
HELD_BACK_SHARE = 1 / 8
LEAST_HELD_BACK = 32
MAX_HELD_BACK = 128
MIN_IMAGES = 16
# What is learned from 64 carries over to the images held back and to no others; from 256 it does (docs/real-model.md).
ENOUGH_IMAGES = 256
NUM_EVALUATIONS = 8
SCHEDULE_NAME = "recovery.json"
# What trials, schedule and choice of the best state set themselves.
_OWN_OPTIONS = (
    "max_steps",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "eval_strategy",
    "eval_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "remove_unused_columns",
    "push_to_hub",
)


@dataclass
class Recovery:
    """What a recovery did.

    Attributes:
        learning_rate (`float`): The one that was used, the peak of a cosine, relative to the size of each weight.
        num_steps (`int`): Steps of the training.
        loss_before, loss_after (`float`): Of the held-back images: KL divergence from the dense model's predictions
            (of other problems than one class of several, their relative error) plus that of the final features.
        agreement_before, agreement_after (`float`, *optional*): The share of them with the dense model's class; `None`
            for a model that does not tell one class of several.
    """

    learning_rate: float
    num_steps: int
    loss_before: float
    loss_after: float
    agreement_before: float | None
    agreement_after: float | None


def recover(
    pruned: SNPModel,
    dense: SNPModel,
    images: CalibrationImages,
    *,
    minutes: float,
    output_dir: str | Path,
    learning_rate: float | None = None,
    seed: int = 42,
    resume: bool = False,
    write_history: Callable[[Path], None] | None = None,
    **training_options: Any,
) -> Recovery:
    """Trains a pruned model in place.

    Args:
        pruned, dense:
            The model, and the one that it is to follow.
        images ([`CalibrationImages`]):
            Unlabelled; an eighth of them is held back, at least 32 or half of them, at most 128.
        minutes (`float`):
            How long trials and training may take together, beside one pass of the dense model over the images.
        output_dir (`str` or `Path`):
            For checkpoints.
        learning_rate (`float`, *optional*):
            Instead of trials; relative to the root mean square of each weight.
        seed (`int`, *optional*):
            Of the order of the images.
        resume (`bool`, *optional*):
            Whether to go on from the last checkpoint in `output_dir`, if there is one.
        write_history (`Callable[[Path], None]`, *optional*):
            See [`CheckpointingTrainer`].
        training_options:
            Further fields of `TrainingArguments`, such as `bf16`.

    Raises:
        ValueError: If there are fewer than 16 images, a number or option cannot be, all weights are frozen, or outputs
            of dense and pruned model cannot be compared.
    """
    check_positive("minutes", minutes)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    own = [name for name in _OWN_OPTIONS if name in training_options]
    if own:
        raise ValueError(
            f"{', '.join(own)} cannot be set: a recovery trains for its minutes and keeps the best state. Leave it "
            "out; `finetune` takes all TrainingArguments."
        )
    if len(images) < MIN_IMAGES:
        raise ValueError(f"Recovery needs at least {MIN_IMAGES} images, got {len(images)}.")
    if not any(weight.requires_grad for weight in pruned.parameters()):
        raise ValueError("All weights of the model are frozen (requires_grad), so there is nothing to train.")

    def arguments(folder: Path, **options: Any) -> TrainingArguments:
        fields = {
            "per_device_train_batch_size": images.batch_size,
            "per_device_eval_batch_size": images.batch_size,
            "weight_decay": 0.0,
            "seed": seed,
            "report_to": "none",
            "logging_strategy": "no",
            "use_cpu": process_state().device.type == "cpu",
            "dataloader_pin_memory": torch.cuda.is_available(),
            "remove_unused_columns": False,
            "disable_tqdm": True,
            "save_strategy": "no",
            **options,
            **training_options,
        }
        return TrainingArguments(str(folder), **fields)

    output_dir = Path(output_dir)
    if output_dir.is_file():
        raise ValueError(f"{output_dir} is a file. Name a folder for checkpoints, output_dir.")
    if len(images) < ENOUGH_IMAGES and process_state().is_main_process:
        logger.warning(
            f"Recovery on {len(images)} images: from so few a model can come closer to the dense one on these and get "
            f"further from it on others. Give {ENOUGH_IMAGES} or more, or compare before and after on others."
        )
    check_comparable(pruned, dense, images.dataset)
    check_backend(arguments(output_dir))  # which fails on options that cannot be
    checkpoint = run_on_main_process(lambda: checkpoint_to_resume(output_dir, resume or None))
    if checkpoint is not None and not (output_dir / SCHEDULE_NAME).is_file():
        raise ValueError(
            f"{output_dir} holds checkpoints, but no {SCHEDULE_NAME}: they are not those of a recovery. Name another "
            "output_dir, or leave resume out."
        )
    start = time.monotonic()
    taught = with_targets(images.dataset, dense, images.batch_size)
    start_of_training = time.monotonic()
    logger.info("The dense model took %.0f seconds over %d images.", start_of_training - start, len(taught))
    num_held_back = max(int(len(taught) * HELD_BACK_SHARE), LEAST_HELD_BACK)
    num_held_back = min(num_held_back, MAX_HELD_BACK, len(taught) // 2)
    # The last ones: the first of a random choice by the same seed may be those that the model was calibrated on, on
    # which a reconstruction looks better than it is.
    parts = (range(len(taught) - num_held_back), range(len(taught) - num_held_back, len(taught)))
    train, held_back = (torch_data.Subset(taught, part) for part in parts)
    spreads = taught.spreads()

    def build(model: SNPModel, folder: Path, **options: Any) -> RecoveryTrainer:
        forget_earlier_trainers(model)
        return RecoveryTrainer(
            model,
            arguments(folder, **options),
            train_dataset=train,
            eval_dataset=held_back,
            spreads=spreads,
            write_history=write_history,
        )

    start_of_evaluation = time.monotonic()
    before = _evaluate(build(pruned, output_dir))
    seconds_of_evaluation = time.monotonic() - start_of_evaluation
    if checkpoint is None:
        rates = LEARNING_RATES if learning_rate is None else (learning_rate,)
        rate, seconds = _choose_rate(rates, partial(_try_rate, build, pruned, output_dir))
        spent = time.monotonic() - start_of_training + (NUM_EVALUATIONS + 1) * seconds_of_evaluation
        left = 60 * minutes - spent
        schedule = run_on_main_process(
            lambda: {"learning_rate": rate, "num_steps": max(1, int(left / seconds)), **before}
        )
        run_on_main_process(lambda: _write(output_dir, schedule))
    else:
        schedule = run_on_main_process(lambda: json.loads((output_dir / SCHEDULE_NAME).read_text(encoding="utf-8")))
        before = {name: schedule[name] for name in before}

    steps_between = max(1, schedule["num_steps"] // NUM_EVALUATIONS)
    weights = {name: weight.detach().cpu().clone() for name, weight in pruned.state_dict().items()}
    trainer = build(
        pruned,
        output_dir,
        max_steps=schedule["num_steps"],
        learning_rate=schedule["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=min(20, schedule["num_steps"] // 10),
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=steps_between,
        save_steps=steps_between,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
    )
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        after = _evaluate(trainer)
    except DivergedError as error:
        logger.warning("%s", error)
        after = {"loss": math.nan}
    if not after["loss"] < before["loss"]:
        logger.warning("No state of the training was closer to the dense model than its start, which is kept.")
        pruned.load_state_dict(weights)
        after = before
    return Recovery(
        schedule["learning_rate"],
        schedule["num_steps"],
        before["loss"],
        after["loss"],
        before["agreement"],
        after["agreement"],
    )


def _evaluate(trainer: RecoveryTrainer) -> dict[str, float | None]:
    """Loss and agreement on the held-back images."""
    metrics = trainer.evaluate()
    return {"loss": metrics["eval_loss"], "agreement": metrics.get("eval_agreement")}


def _choose_rate(rates: Sequence[float], try_out: Callable[[float], tuple[float, float]]) -> tuple[float, float]:
    """The best of rising rates, up to the first that is no better than the one before, and the seconds of a step.

    What is too large once is too large from there on, and trials take of the minutes.
    """
    chosen, least, seconds = rates[0], math.inf, math.inf
    for rate in rates:
        loss, seconds_of_step = try_out(rate)
        seconds = min(seconds, seconds_of_step)
        if loss >= least:
            break
        chosen, least = rate, loss
    return chosen, seconds


def _try_rate(
    build: Callable[..., RecoveryTrainer], pruned: SNPModel, folder: Path, rate: float
) -> tuple[float, float]:
    """The loss on held-back images after a few steps at a learning rate, and the seconds of a step."""
    trainer = build(
        copy.deepcopy(pruned), folder, max_steps=TRIAL_STEPS, learning_rate=rate, lr_scheduler_type="constant"
    )
    start = time.monotonic()
    trainer.train()
    seconds = (time.monotonic() - start) / TRIAL_STEPS
    loss = _evaluate(trainer)["loss"]
    logger.info("Learning rate %g: loss %.4f after %d steps.", rate, loss, TRIAL_STEPS)
    return (loss if math.isfinite(loss) else math.inf), seconds


def _write(folder: Path, schedule: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCHEDULE_NAME).write_text(json.dumps(schedule, indent=2) + "\n", encoding="utf-8")

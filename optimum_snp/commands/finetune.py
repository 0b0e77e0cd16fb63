"""Fine-tune a model, pruned or not, on labelled images with transformers' Trainer.

Examples:
  optimum-cli snp finetune small --train-dataset my/images --teacher deit-small --output small-finetuned
  optimum-cli snp finetune small --train-dataset imagenet-1k --streaming --recipe deit-20 --output small-finetuned
"""

import argparse
import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainingArguments

from ..configuration import LARGEST_SEED
from ..folders import check_space
from ..packages import TRACKERS, check_trackers
from ..processes import process_state
from ..pruner import SNPPruner
from ..publishing import check_push, check_save, choose_layout
from ..saved_fields import check_types
from ..training import DistillationConfig, Recipe, list_checkpoints
from ..training.distillation import KINDS, TEACHER_DTYPES
from ..training.recipes import PARTS, RECIPES
from .common import (
    SHUFFLE_BUFFER,
    Result,
    add_dataset_arguments,
    add_layout_argument,
    add_model_argument,
    add_output_argument,
    add_reading_arguments,
    check_not_source,
    chosen_recipe,
    dataset_name,
    load_named_dataset,
    metric_lines,
    reading_options,
    save_or_rescue,
)
from .numbers import count, not_negative, positive, seed


logger = logging.getLogger(__name__)

# Options that a recipe has values for, too; given ones overrule it.
# What JSON files may say that PyTorch or NumPy stop at, or worse, compute with.
_RANGES = {
    "learning_rate": (0, 1e30),
    "weight_decay": (0, 1e30),
    "adam_beta1": (0, 0.999999999),
    "adam_beta2": (0, 0.999999999),
    "adam_epsilon": (0, 1),
    "max_grad_norm": (0, 1e30),
    "label_smoothing_factor": (0, 1),
    "per_device_train_batch_size": (1, 10**9),
    "per_device_eval_batch_size": (1, 10**9),
    "gradient_accumulation_steps": (1, 10**9),
    "dataloader_num_workers": (0, 10**4),
    "seed": (0, LARGEST_SEED),
}
_SCHEDULE = {"num_train_epochs": 3.0, "learning_rate": 1e-4, "weight_decay": 0.05}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    add_output_argument(parser, "the fine-tuned model is saved")
    parser.add_argument("--push-to-hub", metavar="REPO_ID", help="also push it there, as `push` does")
    add_layout_argument(parser)
    add_dataset_arguments(parser, "train-dataset", "labelled images to train on", required=True, split="train")
    add_dataset_arguments(parser, "eval-dataset", "labelled images to evaluate on", required=False, split="train")
    parser.add_argument("--streaming", action="store_true", help="read data sets of the Hub as they are needed")
    add_reading_arguments(parser, labels=True)
    _add_training_arguments(parser.add_argument_group("training"))
    _add_teacher_arguments(parser.add_argument_group("teacher"))


def _add_training_arguments(group: Any) -> None:
    def text(name: str) -> str:
        return f"default: {_SCHEDULE[name]}, or the recipe's"

    group.add_argument("--recipe", choices=RECIPES, help="schedule and augmentation of DeiT, short or whole")
    group.add_argument(
        "--without", nargs="+", choices=PARTS, default=[], metavar="PART", help=f"parts of it to leave out: {PARTS}"
    )
    group.add_argument("--epochs", dest="num_train_epochs", type=float, metavar="N", help=text("num_train_epochs"))
    group.add_argument("--max-steps", type=int, metavar="N", help="steps instead of epochs")
    group.add_argument("--batch-size", type=count, default=32, metavar="N", help="per device (default: %(default)s)")
    group.add_argument("--learning-rate", type=positive, metavar="X", help=text("learning_rate"))
    group.add_argument("--weight-decay", type=not_negative, metavar="X", help=text("weight_decay"))
    group.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    group.add_argument(
        "--report-to",
        nargs="+",
        choices=TRACKERS,
        default=[],
        help="trackers that get the losses, and plan, budget and measurements in the config of the run; the files of "
        "TensorBoard are in OUTPUT-checkpoints/runs",
    )
    group.add_argument("--run-name", metavar="TEXT", help="what trackers call the run")
    group.add_argument(
        "--training-arguments", metavar="FILE", help="JSON file with further fields of transformers.TrainingArguments"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint, or start as long as there is none"
    )


def _add_teacher_arguments(group: Any) -> None:
    group.add_argument(
        "--teacher", metavar="MODEL", help="also learn from this classifier, such as the model before pruning"
    )
    # Absent unless given, so that the defaults are those of DistillationConfig.
    options = {"default": argparse.SUPPRESS}
    defaults = DistillationConfig()
    group.add_argument(
        "--distillation-kind", dest="kind", choices=KINDS, help=f"what to learn (default: {defaults.kind})", **options
    )
    group.add_argument(
        "--temperature",
        type=positive,
        metavar="X",
        help=f"of soft targets (default: {defaults.temperature})",
        **options,
    )
    group.add_argument(
        "--teacher-weight",
        dest="weight",
        type=not_negative,
        metavar="X",
        help=f"share of the teacher in the loss (default: {defaults.weight})",
        **options,
    )
    group.add_argument(
        "--teacher-dtype",
        choices=TEACHER_DTYPES,
        help=f"whose precision it computes in (default: {defaults.teacher_dtype})",
        **options,
    )
    group.add_argument(
        "--cache-logits", action="store_true", help="run it once before the training, for small data sets", **options
    )


def run(args: argparse.Namespace) -> Result:
    """Trains, evaluates when there is a dataset for it, and saves."""
    check_trackers(args.report_to)
    recipe, distillation = chosen_recipe(args.recipe, args.without), _distillation(args)
    check_not_source(args.output, args.model, args.teacher)
    output = check_save(args.output, overwrite=args.overwrite)
    repo_id = check_push(args.push_to_hub) if args.push_to_hub else None
    training_arguments = _training_arguments(args, output, recipe)
    if not args.resume and list_checkpoints(training_arguments.output_dir):
        # Else a later --resume might go on from the checkpoints of the other training.
        raise ValueError(
            f"{training_arguments.output_dir} holds checkpoints of an earlier training. Add --resume to go on from "
            "the last, or remove that folder to start anew."
        )
    pruner = SNPPruner.from_pretrained(args.model)
    check_space(args.output, 4 * pruner.model.get_memory_footprint())  # a checkpoint has the optimizer's state, too
    layout = choose_layout(pruner.record, args.layout)
    reading = reading_options(args)

    def load(name: str, split: str) -> Any:
        return load_named_dataset(name, split, streaming=args.streaming)

    train_dataset = load(args.train_dataset, args.train_dataset_split)
    if isinstance(train_dataset, datasets.IterableDataset):
        train_dataset = train_dataset.shuffle(seed=args.seed, buffer_size=SHUFFLE_BUFFER)
    eval_dataset = load(args.eval_dataset, args.eval_dataset_split) if args.eval_dataset else None
    if (args.eval_dataset, args.eval_dataset_split) == (args.train_dataset, args.train_dataset_split):
        logger.warning("Evaluation is on the images of the training; --eval-dataset-split names others.")
    trained = pruner.finetune(
        train_dataset,
        eval_dataset,
        training_arguments,
        recipe=recipe,
        distillation=distillation,
        teacher=args.teacher,
        resume_from_checkpoint=args.resume or None,
        **reading,
    )
    metrics: dict[str, float] = {}
    if eval_dataset is not None:
        name = dataset_name(args.eval_dataset, args.eval_dataset_split)
        metrics = pruner.evaluate(eval_dataset, batch_size=args.batch_size, dataset_name=name, **reading)
    result: dict[str, Any] = {"output": args.output, "train_loss": trained.training_loss, **metrics}
    save_or_rescue(pruner, args.output, overwrite=args.overwrite, layout=layout)
    if repo_id:
        result["commit_url"] = str(pruner.push_to_hub(repo_id, layout=layout))
    lines = [f"train loss  {trained.training_loss:.4f}"]
    lines += metric_lines(metrics)
    lines.append(f"Saved in {args.output}")
    lines += [f"Pushed: {result['commit_url']}"] if repo_id else []
    return result, "\n".join(lines)


def _distillation(args: argparse.Namespace) -> DistillationConfig | None:
    names = ("kind", "temperature", "weight", "teacher_dtype", "cache_logits")
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if given and not args.teacher:
        raise ValueError("Options of a teacher were given, but no teacher; name it with --teacher.")
    return DistillationConfig(**given) if args.teacher else None


def _training_arguments(args: argparse.Namespace, output: Path, recipe: Recipe | None) -> TrainingArguments:
    given = {name: getattr(args, name) for name in (*_SCHEDULE, "max_steps") if getattr(args, name) is not None}
    for name in ("num_train_epochs", "max_steps"):
        if not 0 < given.get(name, 1) < math.inf:
            raise ValueError(
                f"--{name.removeprefix('num_train_').replace('_', '-')} must be above 0, got {given[name]}."
            )
    options = {
        **({"lr_scheduler_type": "cosine", **_SCHEDULE} if recipe is None else {}),
        **given,
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": args.batch_size,
        "seed": args.seed,
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "report_to": args.report_to or "none",
        "run_name": args.run_name,
        "use_cpu": process_state().device.type == "cpu",
        **(_further_arguments(args.training_arguments) if args.training_arguments else {}),
    }
    # Beside the output, since saving replaces it as a whole.
    checkpoints = str(output.with_name(f"{output.name}-checkpoints"))
    try:
        arguments = (recipe.training_arguments if recipe else TrainingArguments)(checkpoints, **options)
        _check_numbers(arguments)
        return arguments
    except (ImportError, ValueError, TypeError) as error:  # of transformers, too
        raise ValueError(f"These training arguments cannot be used: {error}") from error


def _check_numbers(arguments: TrainingArguments) -> None:
    """Refuses before the work what PyTorch and NumPy would refuse at the first step."""
    check_types(arguments, "TrainingArguments")
    for name, (least, most) in _RANGES.items():
        value = getattr(arguments, name)
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most}, got {value}.")


def _further_arguments(path: str) -> dict[str, Any]:
    try:
        options = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    known = {field.name for field in dataclasses.fields(TrainingArguments)} - {"output_dir"}
    unknown = [repr(name) for name in options if name not in known] if isinstance(options, dict) else ["no object"]
    if unknown:
        raise ValueError(
            f"{path} must hold an object of fields of TrainingArguments other than output_dir, "
            f"got {', '.join(unknown)}."
        )
    return options

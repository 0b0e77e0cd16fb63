r"""Prune a Vision Transformer with unlabelled images.

Calibrates, plans, prunes and saves. With labelled images, --eval-dataset, and --measure-latency, the model is measured
before and after, and its card and reports state both.

Examples:
  optimum-cli snp prune facebook/deit-small-patch16-224 --dataset my/images --preset deit-small-2.0g --output small
  optimum-cli snp prune deit-small --dataset my/images --target-latency 0.5 --latency-batch-size 1 --output fast
  optimum-cli snp prune my/classifier --dataset my/images --target-flops 0.5 --dry-run
  optimum-cli snp prune my/classifier --dataset my/images --target-flops 0.5 --eval-dataset my/images \
      --eval-dataset-split validation --measure-latency --output small
"""

import argparse
import inspect
import logging
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from safetensors import SafetensorError

from ..calibration import CalibrationStatistics
from ..configuration import AUTO, BUDGETS, REMOVALS, SHARES, SNPConfig, with_other_removals
from ..folders import check_file, check_space
from ..models import has_classifier
from ..plan.plan import PruningPlan
from ..planning.decide import check_fits
from ..presets import PRESETS
from ..pruner import SNPPruner
from ..publishing import check_save
from .common import (
    Result,
    add_dataset_arguments,
    add_label_arguments,
    add_model_argument,
    add_output_argument,
    add_reading_arguments,
    check_not_source,
    dataset_name,
    load_named_dataset,
    metric_lines,
    reading_options,
    save_or_rescue,
)
from .numbers import count


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command; every field of [`SNPConfig`] is one."""
    add_model_argument(parser)
    add_output_argument(parser, "the pruned model is saved", required=False)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what it costs, and write nothing")
    images = parser.add_argument_group("calibration images")
    add_dataset_arguments(images, "dataset", "unlabelled images to calibrate on", required=False, split="train")
    add_reading_arguments(images, labels=False)
    images.add_argument("--batch-size", type=count, default=16, metavar="N", help="default: %(default)s")
    images.add_argument("--statistics", metavar="FILE", help="statistics saved before, instead of a dataset")
    images.add_argument("--save-statistics", metavar="FILE", help="save the statistics for another plan")
    images.add_argument(
        "--classes", nargs="+", metavar="NAME", help="prune for these classes of the model alone: calibrate on their "
        "images, by the labels of the dataset, and leave out the logits of all others",
    )  # fmt: skip
    measured = parser.add_argument_group("what to measure before and after, for the card and reports")
    add_dataset_arguments(measured, "eval-dataset", "labelled images to evaluate on", required=False, split="train")
    add_label_arguments(measured)
    measured.add_argument("--measure-latency", action="store_true", help="time a forward pass of one image")
    recipe = parser.add_argument_group("what to remove")
    recipe.add_argument("--preset", choices=PRESETS, help="shares that the paper's authors published")
    recipe.add_argument(
        "--config", metavar="NAME", help="folder or Hub id with an snp_config.json; options given beside it overrule "
        "its fields, and a budget or shares take the place of what it removes",
    )  # fmt: skip
    for option in fields(SNPConfig):
        _add_option(recipe, option)


def run(args: argparse.Namespace) -> Result:
    """Calibrates, plans, and unless told otherwise prunes, measures and saves."""
    config = _config(args)
    _check(args, config)
    eval_dataset = load_named_dataset(args.eval_dataset, args.eval_dataset_split) if args.eval_dataset else None
    pruner = SNPPruner.from_pretrained(args.model)
    if eval_dataset is not None and not has_classifier(pruner.model):
        raise ValueError(f"--eval-dataset: {args.model} has no classifier to evaluate. Leave the option out.")
    if not args.dry_run:
        check_space(args.output, pruner.model.get_memory_footprint())
    check_fits(config, pruner.model)
    metrics = {"before": _evaluate(pruner, eval_dataset, args)}
    if args.statistics:
        pruner.load_statistics(args.statistics)
    else:
        reading = reading_options(args)
        pruner.calibrate(
            load_named_dataset(args.dataset, args.dataset_split),
            config.num_calibration_samples,
            batch_size=args.batch_size,
            seed=config.seed,
            moments=config.method != "snp" or config.budget is not None or bool(args.save_statistics),
            sensitivities=config.budget is not None or bool(args.save_statistics),
            classes=args.classes,
            **{name: reading[name] for name in ("image_column", "num_workers", "skip_unreadable")},
        )
    if args.save_statistics:
        _save_statistics(pruner.statistics, args.save_statistics)
    plan = pruner.plan(config)
    costs = _costs(plan)
    if args.dry_run:
        return {"output": None, **costs, "plan": plan.to_dict()}, f"{plan}\nNothing was written (--dry-run)."
    original = _original(args, pruner)
    pruner.prune(plan)
    metrics["after"] = _evaluate(pruner, eval_dataset, args)
    seconds = pruner.measure_latency(original) if args.measure_latency else {}
    save_or_rescue(pruner, args.output, overwrite=args.overwrite)
    result: dict[str, Any] = {"output": args.output, **costs}
    lines = [str(plan)]
    if eval_dataset is not None:
        result["metrics"] = metrics
        lines += [f"{when:<6}  {line}" for when, found in metrics.items() for line in metric_lines(found)]
    if seconds:
        result["seconds"] = seconds
        lines.append("latency  " + " -> ".join(f"{1e3 * value:.2f} ms" for value in reversed(seconds.values())))
    lines.append(f"Saved in {args.output}")
    return result, "\n".join(lines)


def _check(args: argparse.Namespace, config: SNPConfig) -> None:
    """Tells before any work what cannot be done.

    Raises:
        ValueError: If it cannot.
    """
    if bool(args.dataset) == bool(args.statistics):
        raise ValueError("Give either --dataset with images to calibrate on, or --statistics saved before.")
    if args.classes and args.statistics:
        raise ValueError("--classes chooses images to calibrate on, so it needs --dataset.")
    if args.classes and args.eval_dataset:
        raise ValueError(
            "--eval-dataset compares the models before and after on all classes, and with --classes the second has "
            "only some. Leave it out, and evaluate the pruned model on images of its classes."
        )
    for name in ("reconstruction", "reconstruction_copies"):
        if args.statistics and getattr(config, name):
            raise ValueError(f"--{name.replace('_', '-')} refits on images: give --dataset instead of --statistics.")
    if args.dry_run and (args.eval_dataset or args.measure_latency):
        raise ValueError("--dry-run measures nothing. Leave out --eval-dataset and --measure-latency, or --dry-run.")
    if not args.dry_run:
        if not args.output:
            raise ValueError("Say where the pruned model is saved, --output FOLDER, or only plan it, --dry-run.")
        check_not_source(args.output, args.model)
        check_save(args.output, overwrite=args.overwrite)
    if args.save_statistics:
        check_file(args.save_statistics)


def _costs(plan: PruningPlan) -> dict[str, Any]:
    return {
        "macs_before": plan.macs_before,
        "macs_after": plan.macs_after,
        "parameters_before": plan.parameters_before,
        "parameters_after": plan.parameters_after,
        "latency": plan.latency,
    }


def _evaluate(pruner: SNPPruner, dataset: Any, args: argparse.Namespace) -> dict[str, float]:
    """The metrics of the model at its present stage; none without labelled images."""
    if dataset is None:
        return {}
    name = dataset_name(args.eval_dataset, args.eval_dataset_split)
    return pruner.evaluate(dataset, dataset_name=name, **reading_options(args))


def _original(args: argparse.Namespace, pruner: SNPPruner) -> str | None:
    """The dense model to time beside the pruned one; one that was pruned before is none."""
    return args.model if pruner.pruning_plan is None else None


def _save_statistics(statistics: CalibrationStatistics | None, path: str) -> None:
    """The model matters more: what cannot be written after all, as on a full disk, stops no pruning."""
    try:
        if statistics is not None:
            statistics.save(path)
    except (OSError, SafetensorError, ValueError) as error:
        logger.error(f"The statistics could not be written to {path}: {error}. The model is pruned all the same.")


def _config(args: argparse.Namespace) -> SNPConfig:
    if args.preset and args.config:
        raise ValueError("Give --preset or --config, not both.")
    given = {option.name: getattr(args, option.name) for option in fields(SNPConfig) if hasattr(args, option.name)}
    if args.preset:
        return SNPConfig.from_preset(args.preset, **given)
    if args.config:
        return with_other_removals(SNPConfig.from_pretrained(args.config), given)
    if not given.keys() & {*SHARES, *REMOVALS, *BUDGETS}:
        raise ValueError(
            "Say what to remove: --preset, --config, a budget such as --target-flops 0.5, or shares such as "
            "--mlp-sparsity 0.5."
        )
    return SNPConfig(**given)


def _add_option(parser: Any, option: Field) -> None:
    """An option that is absent from the result unless the user gave it, so that a preset's value stays."""
    flag = "--" + option.name.replace("_", "-")
    settings: dict[str, Any] = {"default": argparse.SUPPRESS} | _READERS[_kind(option)]
    if "choices" in option.metadata:
        settings["choices"] = option.metadata["choices"]
        settings.pop("metavar", None)
    help_text = option.metadata["help"]
    if option.default not in (None, MISSING):
        help_text += f" (default: {option.default})"
    parser.add_argument(flag, help=help_text.replace("%", "%%"), **settings)


def _kind(option: Field) -> str:
    return "shares" if "list[float]" in str(option.type) else inspect.formatannotation(option.type)


class _Shares(argparse.Action):
    """One share for all blocks, or one per block."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, flag: Any = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def _reading(convert: Callable[[str], Any], wanted: str) -> Callable[[str], Any]:
    """A reader of values that says what is wanted where one cannot be read."""

    def read(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}.") from None

    return read


def _share(text: str) -> float | str:
    return text if text == AUTO else float(text)


def _directions(text: str) -> int | float | None:
    if text in ("all", "none"):
        return None
    return int(text) if text.isdigit() else float(text)


def _blocks(text: str) -> int | list[int] | str:
    if text == AUTO:
        return text
    return [int(block) for block in text.split(",") if block] if "," in text else int(text)


_INTEGER = _reading(int, "a whole number")

# How the command line reads each kind of field.
_READERS: dict[str, dict[str, Any]] = {
    "shares": {
        "type": _reading(_share, "a share such as 0.5"), "nargs": "+", "action": _Shares, "metavar": "SHARE"
    },
    "int | float | None": {
        "type": _reading(_directions, "a count, a share such as 0.9, or `all`"), "metavar": "COUNT|SHARE|all"
    },
    "int | list[int] | str": {
        "type": _reading(_blocks, "a count of blocks such as 2, their numbers such as 4,7 (4, for one), or `auto`"),
        "metavar": "COUNT|BLOCKS|auto",
    },
    "float | None": {"type": _reading(float, "a share such as 0.5"), "metavar": "SHARE"},
    "int | None": {"type": _INTEGER, "metavar": "N"},
    "list[int]": {"type": _INTEGER, "nargs": "+", "metavar": "BLOCK"},
    "list[str]": {"nargs": "+"},
    "bool | None": {"action": argparse.BooleanOptionalAction},
    "int": {"type": _INTEGER, "metavar": "N"},
    "str": {},
}  # fmt: skip

"""Prune a ViT, DeiT or Swin with unlabelled images.

Examples:
  optimum-cli snp prune facebook/deit-small-patch16-224 --dataset my/images --preset deit-small-2.0g --output small
  optimum-cli snp prune deit-small --dataset my/images --target-latency 0.5 --latency-batch-size 1 --output fast
"""

import argparse
import inspect
import logging
from dataclasses import MISSING, Field, fields
from typing import Any

from safetensors import SafetensorError

from ..configuration import AUTO, BUDGETS, REMOVALS, SHARES, SNPConfig
from ..folders import check_file, check_space
from ..planning.decide import check_fits
from ..presets import PRESETS
from ..pruner import SNPPruner
from ..publishing import check_save
from .common import (
    Result,
    add_dataset_arguments,
    add_model_argument,
    add_output_argument,
    add_reading_arguments,
    check_not_source,
    load_named_dataset,
    reading_options,
    save_or_rescue,
)
from .numbers import count


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command; every field of [`SNPConfig`] is one."""
    add_model_argument(parser)
    add_output_argument(parser, "the pruned model is saved")
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
    recipe = parser.add_argument_group("what to remove")
    recipe.add_argument("--preset", choices=PRESETS, help="shares that the paper's authors published")
    recipe.add_argument("--config", metavar="NAME", help="folder or Hub id with an snp_config.json")
    for option in fields(SNPConfig):
        _add_option(recipe, option)


def run(args: argparse.Namespace) -> Result:
    """Calibrates, plans, prunes and saves."""
    config = _config(args)
    if bool(args.dataset) == bool(args.statistics):
        raise ValueError("Give either --dataset with images to calibrate on, or --statistics saved before.")
    if args.classes and args.statistics:
        raise ValueError("--classes chooses images to calibrate on, so it needs --dataset.")
    check_not_source(args.output, args.model)
    check_save(args.output, overwrite=args.overwrite)
    if args.save_statistics:
        check_file(args.save_statistics)
    pruner = SNPPruner.from_pretrained(args.model)
    check_space(args.output, pruner.model.get_memory_footprint())
    check_fits(config, pruner.model)
    if args.statistics:
        pruner.load_statistics(args.statistics)
    else:
        pruner.calibrate(
            load_named_dataset(args.dataset, args.dataset_split),
            config.num_calibration_samples,
            batch_size=args.batch_size,
            seed=config.seed,
            moments=config.method != "snp" or config.budget is not None or bool(args.save_statistics),
            sensitivities=config.budget is not None or bool(args.save_statistics),
            classes=args.classes,
            **reading_options(args),
        )
    if args.save_statistics:
        _save_statistics(pruner, args.save_statistics)
    plan = pruner.plan(config)
    pruner.prune(plan)
    save_or_rescue(pruner, args.output, overwrite=args.overwrite)
    result = {
        "output": args.output,
        "macs_before": plan.macs_before,
        "macs_after": plan.macs_after,
        "parameters_before": plan.parameters_before,
        "parameters_after": plan.parameters_after,
        "latency": plan.latency,
    }
    return result, f"{plan}\nSaved in {args.output}"


def _save_statistics(pruner: SNPPruner, path: str) -> None:
    """The model matters more: what cannot be written after all, as on a full disk, stops no pruning."""
    try:
        pruner.statistics.save(path)
    except (OSError, SafetensorError, ValueError) as error:
        logger.error(f"The statistics could not be written to {path}: {error}. The model is pruned all the same.")


def _config(args: argparse.Namespace) -> SNPConfig:
    if args.preset and args.config:
        raise ValueError("Give --preset or --config, not both.")
    given = {option.name: getattr(args, option.name) for option in fields(SNPConfig) if hasattr(args, option.name)}
    if args.preset:
        return SNPConfig.from_preset(args.preset, **given)
    if args.config:
        return SNPConfig.from_dict({**SNPConfig.from_pretrained(args.config).to_dict(), **given})
    if not given.keys() & {*SHARES, *REMOVALS, *BUDGETS}:
        raise ValueError(
            "Say what to remove: --preset, --config, a budget such as --target-flops 0.5, or shares such as "
            "--mlp-sparsity 0.5."
        )
    return SNPConfig(**given)


def _add_option(parser: Any, option: Field) -> None:
    """An option that is absent from the result unless the user gave it, so that a preset's value stays."""
    flag = "--" + option.name.replace("_", "-")
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": "X"} | _READERS[_kind(option)]
    if "action" in settings and settings["action"] is argparse.BooleanOptionalAction:
        del settings["metavar"]
    help_text = option.metadata["help"]
    if option.default not in (None, MISSING):
        help_text += f" (default: {option.default})"
    parser.add_argument(flag, help=help_text.replace("%", "%%"), **settings)


def _kind(option: Field) -> str:
    return "shares" if "list[float]" in str(option.type) else inspect.formatannotation(option.type)


def _share(text: str) -> float | str:
    return text if text == AUTO else float(text)


class _Shares(argparse.Action):
    """One share for all blocks, or one per block."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: list[float], flag: Any = None) -> None:
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def _directions(text: str) -> int | float | None:
    """A count, a share of the energy, or `all`."""
    if text in ("all", "none"):
        return None
    return int(text) if text.isdigit() else float(text)


def _blocks(text: str) -> int | list[int] | str:
    """A count, or the blocks themselves: `4,7`, and `4,` for one; or `auto`."""
    if text == AUTO:
        return text
    return [int(block) for block in text.split(",") if block] if "," in text else int(text)


# How the command line reads each kind of field.
_READERS: dict[str, dict[str, Any]] = {
    "shares": {"type": _share, "nargs": "+", "action": _Shares},
    "int | float | None": {"type": _directions},
    "int | list[int] | str": {"type": _blocks},
    "float | None": {"type": float},
    "int | None": {"type": int},
    "list[int]": {"type": int, "nargs": "+"},
    "list[str]": {"nargs": "+"},
    "bool | None": {"action": argparse.BooleanOptionalAction},
    "int": {"type": int},
    "str": {},
}

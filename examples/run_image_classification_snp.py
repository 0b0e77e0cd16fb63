r"""Prunes an image classifier and fine-tunes it, in the manner of the examples of Transformers.

From a model to a smaller one that is saved, and pushed if asked: calibrate, plan, prune, fine-tune, evaluate. On a
folder of images:

    python examples/run_image_classification_snp.py --model_name_or_path my/classifier \
        --train_dir my/images/train --validation_dir my/images/val --target_flops 0.5 --distill \
        --do_train --do_eval --num_train_epochs 20 --output_dir small

The model knows the classes of the images; one for other classes gets a new classifier by --ignore_mismatched_sizes.

The paper's setting on eight GPUs is examples/slurm_8gpu.sh. All options of `transformers.TrainingArguments` are
options of this script; with `--recipe` those that are not given come from the recipe. `--resume_from_checkpoint True`
goes on from the last checkpoint of `--output_dir`, or starts where there is none.
"""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import transformers
from transformers import HfArgumentParser, TrainingArguments, set_seed

from optimum_snp import DistillationConfig, SNPConfig, SNPPruner
from optimum_snp.commands.common import SHUFFLE_BUFFER, chosen_recipe
from optimum_snp.configuration import BUDGETS, METHODS
from optimum_snp.data import ModelClasses, load_image_folder
from optimum_snp.presets import PRESETS
from optimum_snp.processes import run_on_main_process
from optimum_snp.publishing import check_push_of_training, check_save, claim_folder
from optimum_snp.training import checkpoint_to_resume
from optimum_snp.training.distillation import KINDS, load_teacher
from optimum_snp.training.recipes import PARTS, RECIPES


logger = logging.getLogger("run_image_classification_snp")


@dataclass
class ModelArguments:
    """The model to prune."""

    model_name_or_path: str = field(metadata={"help": "folder, Hub id or short name such as deit-small"})
    model_revision: str = field(default="main", metadata={"help": "its branch, tag or commit on the Hub"})
    cache_dir: str | None = field(default=None, metadata={"help": "where downloads are kept"})
    token: str | None = field(default=None, metadata={"help": "of the Hub, instead of the one you logged in with"})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "give the model a new classifier for the labels of the data set"}
    )


@dataclass
class DataArguments:
    """The images."""

    dataset_name: str | None = field(default=None, metadata={"help": "data set of the Hub, such as imagenet-1k"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "its configuration"})
    train_split: str = field(default="train", metadata={"help": "its split to train and calibrate on"})
    validation_split: str = field(default="validation", metadata={"help": "its split to evaluate on"})
    train_dir: str | None = field(default=None, metadata={"help": "folder with a subfolder of images for each class"})
    validation_dir: str | None = field(default=None, metadata={"help": "the same, to evaluate on"})
    train_val_split: float = field(
        default=0.15,
        metadata={"help": "share of the folder to train on that --do_eval holds out without --validation_dir"},
    )
    streaming: bool = field(default=False, metadata={"help": "read a data set of the Hub as it is needed"})
    image_column_name: str | None = field(default=None, metadata={"help": "where its type does not tell"})
    label_column_name: str | None = field(default=None, metadata={"help": "where its type does not tell"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on no more images than these"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "evaluate on no more images than these"})

    def __post_init__(self) -> None:
        if bool(self.dataset_name) == bool(self.train_dir):
            raise ValueError("Give either --dataset_name or --train_dir.")
        if not 0 < self.train_val_split < 1:
            raise ValueError(f"--train_val_split must be between 0 and 1, got {self.train_val_split}.")
        if self.streaming and not self.dataset_name:
            raise ValueError("--streaming reads a data set of the Hub; name it with --dataset_name.")
        if self.streaming and self.max_train_samples is not None:
            raise ValueError(
                "--max_train_samples chooses from a data set that has a length; for a stream say --max_steps."
            )


@dataclass
class PruningArguments:
    """How much is pruned, and how."""

    method: str = field(default="projection", metadata={"help": "how neurons are kept", "choices": METHODS})
    target_flops: float | None = field(default=None, metadata={"help": "share of the FLOPs that may remain"})
    target_params: float | None = field(default=None, metadata={"help": "share of the parameters that may remain"})
    target_latency: float | None = field(default=None, metadata={"help": "share of the latency that may remain"})
    preset: str | None = field(default=None, metadata={"help": "published shares", "choices": list(PRESETS)})
    snp_config: str | None = field(
        default=None, metadata={"help": "folder or Hub id with an snp_config.json that says all of this"}
    )
    num_calibration_samples: int = field(default=256, metadata={"help": "images to calibrate on, unlabelled"})

    def config(self) -> SNPConfig:
        """What is asked for."""
        budgets = {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}
        if len(budgets) + bool(self.preset) + bool(self.snp_config) != 1:
            options = [f"--{name}" for name in BUDGETS]
            raise ValueError(f"Say how much may remain with one of {', '.join(options)}, --preset and --snp_config.")
        if self.snp_config:
            return SNPConfig.from_pretrained(self.snp_config)
        options = {"method": self.method, "num_calibration_samples": self.num_calibration_samples}
        return SNPConfig.from_preset(self.preset, **options) if self.preset else SNPConfig(**budgets, **options)


@dataclass
class RecoveryArguments:
    """What the training has beside its arguments."""

    recipe: str | None = field(default=None, metadata={"help": "schedule and augmentation", "choices": list(RECIPES)})
    without: list[str] | None = field(default=None, metadata={"help": f"parts of it to leave out: {', '.join(PARTS)}"})
    distill: bool = field(default=False, metadata={"help": "also learn from a teacher: the model before pruning"})
    teacher_name_or_path: str | None = field(default=None, metadata={"help": "or from this one"})
    distillation_kind: str = field(default="soft", metadata={"help": "what to learn", "choices": KINDS})
    temperature: float = field(default=DistillationConfig.temperature, metadata={"help": "of soft targets"})
    teacher_weight: float = field(default=DistillationConfig.weight, metadata={"help": "its share in the loss"})
    cache_logits: bool = field(default=False, metadata={"help": "run the teacher once before the training"})

    def distillation(self) -> DistillationConfig | None:
        """How to learn from the teacher, if there is one."""
        config = DistillationConfig(
            self.distillation_kind,
            temperature=self.temperature,
            weight=self.teacher_weight,
            cache_logits=self.cache_logits,
        )
        if self.distill or self.teacher_name_or_path:
            return config
        if config != DistillationConfig():
            raise ValueError(
                "Options of a teacher were given, but no teacher; say --distill or --teacher_name_or_path."
            )
        return None


Arguments = tuple[ModelArguments, DataArguments, PruningArguments, RecoveryArguments, TrainingArguments]


def parse(arguments: list[str]) -> Arguments:
    """The arguments; where there is a recipe, its schedule stands in for what is not given."""
    kinds = (ModelArguments, DataArguments, PruningArguments, RecoveryArguments, TrainingArguments)
    first_look = HfArgumentParser(RecoveryArguments, add_help=False, allow_abbrev=False)
    recovery, _ = first_look.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    parser = HfArgumentParser(kinds, description=__doc__, allow_abbrev=False)
    recipe = chosen_recipe(recovery.recipe, recovery.without)
    if recipe is not None:
        parser.set_defaults(learning_rate=None, **recipe.schedule())
    parsed = parser.parse_args_into_dataclasses(arguments)
    if parsed[-1].learning_rate is None:
        parsed[-1].learning_rate = recipe.scaled_learning_rate(parsed[-1])
    return parsed


def load_images(args: DataArguments, seed: int, do_eval: bool) -> tuple[Any, Any]:
    """Images to train and calibrate on and, if asked for, to evaluate on."""

    def load(folder: str | None, split: str) -> Any:
        if folder:
            return load_image_folder(folder)
        return datasets.load_dataset(
            args.dataset_name, args.dataset_config_name, split=split, streaming=args.streaming
        )

    train = load(args.train_dir, args.train_split)
    if do_eval and args.train_dir and not args.validation_dir:
        if "label" not in train.features:
            raise ValueError(f"{args.train_dir} has no subfolders for classes, at least two, to evaluate on.")
        parts = train.train_test_split(args.train_val_split, seed=seed, stratify_by_column="label")
        train, validation = parts["train"], parts["test"]
    elif do_eval:
        validation = load(args.validation_dir, args.validation_split)
    validation = _first(validation, args.max_eval_samples, seed) if do_eval else None
    if isinstance(train, datasets.IterableDataset):  # in random order within its buffer
        return train.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER), validation
    return _first(train, args.max_train_samples, seed), validation


def _first(images: Any, count: int | None, seed: int) -> Any:
    """A random choice of `count`, of a stream within its buffer."""
    if count is None:
        return images
    if isinstance(images, datasets.IterableDataset):
        return images.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER).take(count)
    return images.shuffle(seed=seed).select(range(min(count, len(images))))


def label_names(images: Any, column: str | None) -> list[str] | None:
    """The names of the classes, where the data set has them."""
    for name, feature in (images.features or {}).items():
        if isinstance(feature, datasets.ClassLabel) and column in (None, name):
            return feature.names
    return None


def load_model(args: ModelArguments, names: list[str] | None) -> tuple[SNPPruner, bool]:
    """The model, and whether its classifier is new.

    Raises:
        ValueError: If its labels are not those of the data set and it may not get a new classifier.
    """
    options = {"revision": args.model_revision, "cache_dir": args.cache_dir, "token": args.token}
    pruner = SNPPruner.from_pretrained(args.model_name_or_path, **options)
    config = pruner.model.config
    if names is None:
        return pruner, False
    classes = ModelClasses.of(config)
    if len(names) == len(classes) and not classes.named:
        ModelClasses(names).name(config)
        return pruner, False
    try:
        classes.match(names)
        return pruner, False
    except ValueError as error:
        if not args.ignore_mismatched_sizes:
            raise ValueError(
                f"{error} Or give the model a new classifier for these labels: --ignore_mismatched_sizes."
            ) from error
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    options |= {"ignore_mismatched_sizes": True, **labels}
    return SNPPruner.from_pretrained(args.model_name_or_path, **options), True


def main(arguments: list[str]) -> dict[str, float]:
    """Runs all of it and returns what was measured."""
    model_args, data_args, pruning_args, recovery_args, training_args = parse(arguments)
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    transformers.utils.logging.enable_explicit_format()
    config, distillation = pruning_args.config(), recovery_args.distillation()
    recipe = chosen_recipe(recovery_args.recipe, recovery_args.without)
    asked = training_args.resume_from_checkpoint
    asked = {"true": True, "false": False}.get(str(asked).lower(), asked)
    check_save(training_args.output_dir, overwrite=bool(asked))
    push = check_push_of_training(training_args) if training_args.push_to_hub else None
    training_args.push_to_hub = False  # we do, in the end, with what was measured in the card
    set_seed(training_args.seed)
    with training_args.main_process_first(desc="loading the images"):
        train_images, eval_images = load_images(data_args, training_args.seed, training_args.do_eval)
    names = label_names(train_images, data_args.label_column_name)
    columns = {"image_column": data_args.image_column_name, "label_column": data_args.label_column_name}
    results: dict[str, float] = {}

    def evaluate(stage: str) -> None:
        if training_args.do_eval:
            batch_size = training_args.per_device_eval_batch_size
            measured = pruner.evaluate(
                eval_images, batch_size=batch_size, dataset_name=data_args.dataset_name, **columns
            )
            results.update({f"{stage}_{name}": value for name, value in measured.items()})
            logger.info(f"{stage}: accuracy {measured['accuracy']:.2%}")

    checkpoint = run_on_main_process(lambda: checkpoint_to_resume(training_args.output_dir, asked))
    teacher = recovery_args.teacher_name_or_path
    if checkpoint:
        logger.info(f"Going on from {checkpoint}, which is pruned.")
        pruner = SNPPruner.from_pretrained(checkpoint)
        if pruner.pruning_plan is None or pruner.pruning_plan.config != config:
            raise ValueError(
                f"{checkpoint} was pruned otherwise than is asked for now. Ask for the same, or name another "
                "--output_dir."
            )
        if distillation and not teacher:
            teacher = load_model(model_args, names)[0].model
    else:
        pruner, is_new = load_model(model_args, names)
        if is_new and distillation and not teacher:
            raise ValueError(
                "The model before pruning has a new classifier and cannot teach. Fine-tune it first, or name another "
                "teacher with --teacher_name_or_path."
            )
        if teacher:  # here, so that one that will not do is told before the work
            teacher = load_teacher(teacher, pruner.model, pruner.image_processor)
        evaluate("dense")
        calibration = {"image_column": data_args.image_column_name, "seed": config.seed}
        pruner.calibrate(train_images, config.num_calibration_samples, **calibration)
        plan = pruner.plan(config)
        logger.info(f"\n{plan}")
        pruner.prune(plan)
        evaluate("pruned")
    if training_args.should_save:
        claim_folder(training_args.output_dir)  # where checkpoints and logs of this run come to lie before the model
    if training_args.do_train:
        output = pruner.finetune(
            train_images,
            eval_images if training_args.do_eval else None,
            training_args,
            recipe=recipe,
            distillation=distillation,
            teacher=teacher,
            resume_from_checkpoint=checkpoint,
            **columns,
        )
        results["train_loss"] = output.training_loss
        evaluate("finetuned")
    pruner.save_pretrained(training_args.output_dir, overwrite=True)
    if training_args.should_save:
        Path(training_args.output_dir, "all_results.json").write_text(json.dumps(results, indent=2) + "\n")
    if push is not None:
        logger.info(f"Pushed: {pruner.push_to_hub(**push)}")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])

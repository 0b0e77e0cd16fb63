"""A `transformers.Trainer` over the datasets that this library reads, with top-1 and top-5 accuracy."""

import copy
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments, set_seed

from ..checks import check_positive_integer
from ..data import SINGLE_LABEL, LabelMap, PixelStream, problem_type
from ..devices import put_back
from ..metrics import METRIC_NAMES, metric_of
from ..models import SNPModel, has_classifier
from ..processes import process_state
from ..structure import reads_sounds
from .checkpoints import forget_earlier_trainers
from .compiling import check_backend
from .distillation import DistillationConfig, Teacher, load_teacher, with_teacher_logits
from .finetuning_trainer import FineTuningTrainer
from .labelled import LabelledCollator, LabelledReading
from .mixing import Mixing
from .recipes import Recipe
from .reproducible import CountEpochs, reproducible
from .trackers import FactsForTrackers
from .transforms import TrainTransform


if TYPE_CHECKING:
    from peft import PeftConfig


class _UnsavedToken(str):
    """A token of the Hub that no pickle holds: a Trainer pickles its arguments beside the weights, and pushes both."""

    def __reduce__(self) -> tuple:
        return type(None), ()


def build_trainer(
    model: SNPModel,
    args: TrainingArguments,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    *,
    image_processor: BaseImageProcessor | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_map: LabelMap | None = None,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
    distillation: DistillationConfig | None = None,
    teacher: str | Path | PreTrainedModel | None = None,
    recipe: Recipe | None = None,
    peft_config: "PeftConfig | None" = None,
    write_history: Callable[[Path], None] | None = None,
    facts: dict[str, Any] | None = None,
    **trainer_options: Any,
) -> FineTuningTrainer:
    """Makes a Trainer for an image classifier.

    Args:
        model:
            The model to train or evaluate; the Trainer works on it in place.
        args (`TrainingArguments`):
            As for [`~transformers.Trainer`]; they stay as they are.
        train_dataset, eval_dataset (*optional*):
            Labelled datasets of any kind that [`optimum_snp.data.pixels`] lists; to evaluate on, also several by
            name.
        image_processor, image_column, label_column, label_map, num_workers, skip_unreadable:
            See [`LabelledReading`].
        distillation ([`DistillationConfig`], *optional*), teacher (*optional*):
            How the model learns from a teacher, and from whom: see [`load_teacher`].
        recipe ([`Recipe`], *optional*):
            What to train by beside `args`.
        peft_config (`PeftConfig`, *optional*):
            Trains adapters in a copy of the model instead of the model itself.
        write_history (`Callable[[Path], None]`, *optional*):
            See [`CheckpointingTrainer`].
        facts (`dict[str, Any]`, *optional*):
            See [`FactsForTrackers`].
        trainer_options:
            Further arguments of [`~transformers.Trainer`]; they overrule ours.

    Raises:
        TypeError: If the model has no classifier.
        ValueError: For a dataset or a teacher that cannot be used, a stream to train on of unknown length, or
            arguments that do not know the processes of this job.
    """
    if not has_classifier(model):
        raise TypeError(
            f"{type(model).__name__} has no classifier to train or evaluate. Start from a model with one, for example "
            "ViTForImageClassification."
        )

    plugin = getattr(args, "deepspeed_plugin", None)
    if plugin is not None and plugin.zero_stage == 3:
        raise ValueError(
            "DeepSpeed's ZeRO-3 leaves every process a part of the weights, and the model that it leaves behind would "
            "be empty. Use ZeRO-2, or FSDP (docs/distributed.md)."
        )
    check_backend(args)
    process_state()  # raises if the arguments let the processes of this job lose each other

    forget_earlier_trainers(model)
    args = copy.copy(args)
    # Settings without which PyTorch warns of what the user did not ask for.
    if not torch.accelerator.is_available() if hasattr(torch, "accelerator") else not torch.cuda.is_available():
        args.dataloader_pin_memory = False
    if args.ddp_find_unused_parameters is None and not trainer_options.get("compute_loss_func"):
        args.ddp_find_unused_parameters = False  # our losses reach every weight
    if args.hub_token is not None:
        args.hub_token = _UnsavedToken(args.hub_token)

    problem = problem_type(model.config)
    _check_problem(problem, args, distillation, recipe)
    if recipe is not None and reads_sounds(model.config):
        raise ValueError(
            "A recipe changes and mixes images, and the model reads sounds. Leave it out: a schedule goes into "
            "TrainingArguments, and a teacher needs no recipe."
        )
    options = {**metric_options(problem, trainer_options), "processing_class": image_processor, **trainer_options}
    transform = TrainTransform.of(recipe, image_processor, model.config.image_size)
    caches_logits = distillation is not None and distillation.cache_logits
    if caches_logits and (transform or "data_collator" in options or Mixing.of(recipe, model.num_labels)):
        raise ValueError(
            "cache_logits=True needs images that are the same every time; it does not go with a data_collator, nor "
            "with a recipe that changes or mixes them."
        )
    if options.get("data_collator") is not None:
        options["data_collator"] = LabelledCollator(options["data_collator"])
    frozen_teacher = None
    if distillation is not None:
        frozen_teacher = Teacher(load_teacher(teacher, model, image_processor), distillation, args, model.dtype)

    reading = LabelledReading(
        model.config,
        args,
        image_processor,
        image_column,
        label_column,
        label_map,
        num_workers,
        skip_unreadable,
    )
    train_dataset = reading.training_set(train_dataset, transform)
    eval_dataset = reading.evaluation_sets(eval_dataset)
    if caches_logits:
        train_dataset = with_teacher_logits(train_dataset, frozen_teacher, args.per_device_train_batch_size)
        args.remove_unused_columns = False  # the Trainer would take the teacher's logits away
    if isinstance(train_dataset, PixelStream) and args.max_steps <= 0:
        args.max_steps = steps_of_stream(train_dataset.dataset, args)
    if train_dataset is not None:
        train_dataset = reproducible(train_dataset, args.seed if args.data_seed is None else args.data_seed)
        options["callbacks"] = [*(options.get("callbacks") or []), CountEpochs(train_dataset)]
    _check_optimizer([] if peft_config is not None else model.parameters(), options)
    if peft_config is not None:
        from peft import get_peft_model

        if args.fsdp:
            raise ValueError("Adapters are too small to be split up by FSDP. Leave out fsdp or peft_config.")
        set_seed(args.seed)  # adapters start at random
        with warnings.catch_warnings():  # PEFT reads an attribute by its old name, which transformers tells the user
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            model = get_peft_model(copy.deepcopy(model), peft_config)
    if args.report_to and facts is not None:
        options["callbacks"] = [*(options.get("callbacks") or []), FactsForTrackers(args, facts)]
    return FineTuningTrainer(
        model,
        args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        teacher=frozen_teacher,
        recipe=recipe,
        write_history=write_history,
        **options,
    )


def metric_options(problem: str, given: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a problem as options of a Trainer; none where the caller has metrics of their own.

    Ours see top labels only, theirs the logits.
    """
    if "compute_metrics" in given or "preprocess_logits_for_metrics" in given:
        return {}
    compute_metrics, preprocess = metric_of(problem)
    return {"compute_metrics": compute_metrics, "preprocess_logits_for_metrics": preprocess}


def _check_problem(
    problem: str, args: TrainingArguments, distillation: DistillationConfig | None, recipe: Recipe | None
) -> None:
    if problem == SINGLE_LABEL:
        return
    refused = {
        "a teacher": distillation is not None,
        "mixup and cutmix": recipe is not None and bool(recipe.mixup or recipe.cutmix),
        "label smoothing": args.label_smoothing_factor != 0,
    }
    for name, is_asked in refused.items():
        if is_asked:
            raise ValueError(
                f"The model solves {problem!r}, with which {name} cannot be used: it is for one class per image. "
                "Leave it out, of a recipe by recipe.without(…)."
            )


def _check_optimizer(trained: Iterable[torch.nn.Parameter], options: dict[str, Any]) -> None:
    """An optimizer of the caller's own must hold the weights that are trained; adapters are not made yet."""
    optimizer = (options.get("optimizers") or (None, None))[0]
    if optimizer is None:
        return
    own = {id(weight) for weight in trained}
    if not all(id(weight) in own for group in optimizer.param_groups for weight in group["params"]):
        raise ValueError(
            "The optimizer holds weights that are not those which are trained, so they would stay as they are. Make "
            "it from pruner.model.parameters() after the last step of pruning; with peft_config, whose adapters are "
            "new weights, leave it out and say optim and learning_rate in TrainingArguments."
        )


def steps_of_stream(stream: Any, args: TrainingArguments) -> int:
    """The steps of a training on a stream, where its data set knows how many images it has.

    What `take` or `filter` left out of it is counted, too.

    Raises:
        ValueError: If it does not.
    """
    splits = getattr(getattr(stream, "info", None), "splits", None) or {}
    split = splits.get(str(getattr(stream, "split", None)))
    if split is None or not split.num_examples:
        raise ValueError(
            "The training set is a stream that does not know its length, so the length of the training must be said: "
            "set max_steps in TrainingArguments to images x epochs / images per step."
        )
    images = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return math.ceil(args.num_train_epochs * math.ceil(split.num_examples / images))


def evaluate_accuracy(
    model: SNPModel,
    eval_dataset: Any,
    *,
    batch_size: int = 32,
    **data_options: Any,
) -> tuple[dict[str, float], int]:
    """The metrics of a model on a labelled dataset: top-1 and top-5 accuracy, where images have one class each.

    Args:
        model:
            The model to evaluate.
        eval_dataset:
            A labelled dataset of any kind that [`optimum_snp.data.pixels`] lists.
        batch_size (`int`, *optional*, defaults to 32):
            Images per forward pass and device.
        data_options:
            `image_processor`, `image_column`, `label_column`, `label_map`, `num_workers`, `skip_unreadable`.

    Returns:
        `dict[str, float]`: `accuracy` and `top5_accuracy`, shares in [0, 1], or the metrics of another `problem_type`,
        see [`optimum_snp.metrics.metric_of`]; and the number of images, which a stream tells only when it has been
        read.

    Raises:
        TypeError, ValueError: As [`build_trainer`].
    """
    check_positive_integer("batch_size", batch_size)
    if isinstance(eval_dataset, dict):
        raise TypeError(f"Pass one split of the dataset, not all; it has {', '.join(map(repr, eval_dataset))}.")
    with put_back(model), tempfile.TemporaryDirectory() as folder:  # the Trainer wants one; nothing is written to it
        args = TrainingArguments(
            folder,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            use_cpu=process_state().device.type == "cpu",  # else the processes of a job lose each other here
            disable_tqdm=not sys.stderr.isatty(),
        )
        trainer = build_trainer(model, args, eval_dataset=eval_dataset, **data_options)
        prediction = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    ours = {name.removeprefix("eval_"): value for name, value in prediction.metrics.items()}
    return {name: ours[name] for name in METRIC_NAMES if name in ours}, len(prediction.label_ids)

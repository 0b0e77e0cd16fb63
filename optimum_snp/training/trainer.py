"""A `transformers.Trainer` over the datasets that this library reads, with top-1 and top-5 accuracy."""

import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.state import AcceleratorState
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments, set_seed

from ..calibration.data import PixelDataset, PixelStream, pixel_dataset
from ..calibration.labels import has_names
from ..devices import put_back
from ..metrics import top_labels, topk_accuracy
from ..models import SNPSwinForImageClassification, SNPViTForImageClassification
from ..processes import process_state
from .distillation import DistillationConfig, Teacher, load_teacher, with_teacher_logits
from .finetuning_trainer import FineTuningTrainer
from .mixing import Mixing
from .recipes import Recipe
from .reproducible import CountEpochs, reproducible
from .transforms import TrainTransform


if TYPE_CHECKING:
    from peft import PeftConfig


class _UnsavedToken(str):
    """A token of the Hub that no pickle holds: a Trainer pickles its arguments beside the weights, and pushes both."""

    def __reduce__(self) -> tuple:
        return type(None), ()


def build_trainer(
    model: SNPViTForImageClassification | SNPSwinForImageClassification,
    args: TrainingArguments,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    *,
    image_processor: BaseImageProcessor | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    distillation: DistillationConfig | None = None,
    teacher: str | Path | PreTrainedModel | None = None,
    recipe: Recipe | None = None,
    peft_config: "PeftConfig | None" = None,
    write_history: Callable[[Path], None] | None = None,
    **trainer_options: Any,
) -> FineTuningTrainer:
    """Makes a Trainer for an image classifier.

    Args:
        model ([`SNPViTForImageClassification`] or [`SNPSwinForImageClassification`]):
            The model to train or evaluate; the Trainer works on it in place.
        args (`TrainingArguments`):
            As for [`~transformers.Trainer`]; they stay as they are.
        train_dataset, eval_dataset (*optional*):
            Labelled datasets of any kind that [`optimum_snp.calibration.data`] lists.
        image_processor, image_column, label_column:
            See [`optimum_snp.calibration.data.pixel_dataset`].
        distillation ([`DistillationConfig`], *optional*), teacher (*optional*):
            How the model learns from a teacher, and from whom: see [`load_teacher`].
        recipe ([`Recipe`], *optional*):
            What to train by beside `args`.
        peft_config (`PeftConfig`, *optional*):
            Trains adapters in a copy of the model instead of the model itself.
        write_history (`Callable[[Path], None]`, *optional*):
            See [`CheckpointingTrainer`].
        trainer_options:
            Further arguments of [`~transformers.Trainer`]; they overrule ours.

    Raises:
        TypeError: If the model has no classifier.
        ValueError: For a dataset or a teacher that cannot be used, a stream to train on of unknown length, or
            arguments that do not know the processes of this job.
    """
    if not isinstance(model, (SNPViTForImageClassification, SNPSwinForImageClassification)):
        raise TypeError(
            f"{type(model).__name__} has no classifier to train or evaluate. Start from a model with one, for example "
            "ViTForImageClassification."
        )

    process_state()  # raises if the arguments let the processes of this job lose each other

    # A Trainer before this one, for evaluation say, marks the model as wrapped and fixes the precision of the process.
    # Left so, this one would train without autocast, and its processes without talking to each other.
    model.__dict__.pop("_is_accelerate_prepared", None)
    AcceleratorState._reset_state()

    args = copy.copy(args)
    if args.hub_token is not None:
        args.hub_token = _UnsavedToken(args.hub_token)

    def labelled(dataset: Any, transform: TrainTransform | None = None) -> Any:
        if dataset is None:
            return None
        pixels = pixel_dataset(
            dataset,
            model.config,
            image_processor,
            image_column=image_column,
            label_column=label_column,
            with_labels=True,
            transform=transform,
        )
        if isinstance(pixels, PixelStream):
            pixels.least_images = args.world_size
        return pixels

    options = {
        "compute_metrics": topk_accuracy,
        "preprocess_logits_for_metrics": top_labels,
        "processing_class": image_processor,  # saved with every checkpoint
        **trainer_options,
    }
    transform = TrainTransform.of(recipe, image_processor, model.config.image_size)
    caches_logits = distillation is not None and distillation.cache_logits
    if caches_logits and (transform or "data_collator" in options or Mixing.of(recipe, model.num_labels)):
        raise ValueError(
            "cache_logits=True needs images that are the same every time; it does not go with a data_collator, nor "
            "with a recipe that changes or mixes them."
        )
    frozen_teacher = None
    if distillation is not None:
        frozen_teacher = Teacher(load_teacher(teacher, model, image_processor), distillation, args, model.dtype)
    eval_dataset = labelled(eval_dataset)
    train_dataset = labelled(train_dataset, transform)
    if train_dataset is not None and eval_dataset is not None and not has_names(model.config.id2label):
        _check_same_names(train_dataset, eval_dataset)
    if caches_logits:
        train_dataset = with_teacher_logits(train_dataset, frozen_teacher, args.per_device_train_batch_size)
        args.remove_unused_columns = False  # the Trainer would take the teacher's logits away
    if isinstance(train_dataset, PixelStream) and args.max_steps <= 0:
        args.max_steps = steps_of_stream(train_dataset.dataset, args)
    if train_dataset is not None:
        train_dataset = reproducible(train_dataset, args.seed if args.data_seed is None else args.data_seed)
        options["callbacks"] = [*(options.get("callbacks") or []), CountEpochs(train_dataset)]
    if peft_config is not None:
        from peft import get_peft_model

        if args.fsdp:
            raise ValueError("Adapters are too small to be split up by FSDP. Leave out fsdp or peft_config.")
        set_seed(args.seed)  # adapters start at random
        model = get_peft_model(copy.deepcopy(model), peft_config)
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


def _check_same_names(train_dataset: PixelDataset | PixelStream, eval_dataset: PixelDataset | PixelStream) -> None:
    """Where the model has no names for its labels, both datasets must count them alike."""
    ours, theirs = train_dataset.reader.label_names, eval_dataset.reader.label_names
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"The classes to train on are {', '.join(ours)}, those to evaluate on {', '.join(theirs)}, and the model "
            "has no names that tell which is which. Both need the same classes, or the model an id2label."
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
    model: SNPViTForImageClassification | SNPSwinForImageClassification,
    eval_dataset: Any,
    *,
    batch_size: int = 32,
    **data_options: Any,
) -> tuple[dict[str, float], int]:
    """Top-1 and top-5 accuracy on a labelled dataset.

    Args:
        model ([`SNPViTForImageClassification`] or [`SNPSwinForImageClassification`]):
            The model to evaluate.
        eval_dataset:
            A labelled dataset of any kind that [`optimum_snp.calibration.data`] lists.
        batch_size (`int`, *optional*, defaults to 32):
            Images per forward pass and device.
        data_options:
            `image_processor`, `image_column`, `label_column`.

    Returns:
        `dict[str, float]`: `accuracy` and `top5_accuracy`, shares in [0, 1]; and the number of images, which a stream
        tells only when it has been read.
    """
    with put_back(model), tempfile.TemporaryDirectory() as folder:  # the Trainer wants one; nothing is written to it
        args = TrainingArguments(
            folder,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            use_cpu=process_state().device.type == "cpu",  # else the processes of a job lose each other here
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = build_trainer(model, args, eval_dataset=eval_dataset, **data_options)
        prediction = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    accuracy = {name: prediction.metrics[f"eval_{name}"] for name in ("accuracy", "top5_accuracy")}
    return accuracy, len(prediction.label_ids)

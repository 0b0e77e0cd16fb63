"""Learning from a teacher: what a student is to learn, which teachers will do, and the loss.

Soft targets are those of Hinton et al. (arXiv 1503.02531), hard ones and the second head those of DeiT (arXiv
2012.12877, section 4). Where the student has a head for its distillation token, that head learns from the teacher and
the other from the labels; else the one head learns from both.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch.utils import data as torch_data
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    SequenceFeatureExtractor,
    TrainingArguments,
)
from transformers.utils import ModelOutput

from ..data import PixelDataset, has_names
from ..loading import check_path, load_image_processor, resolve_name
from ..processes import process_state
from ..structure import as_pair, input_name, input_shape, model_inputs, reads_sounds


KINDS = ("soft", "hard")
TEACHER_DTYPES = ("student", "own")

TEACHER_LOGITS = "teacher_logits"

# What decides over the spectrograms that a feature extractor makes of sounds.
_SOUND_SETTINGS = ("sampling_rate", "num_mel_bins", "max_length", "do_normalize", "mean", "std")


@dataclass(frozen=True)
class DistillationConfig:
    """How a student learns from its teacher.

    Args:
        kind (`str`, *optional*, defaults to `"soft"`):
            `"soft"`: the teacher's probabilities; `"hard"`: the class that it finds most likely.
        temperature (`float`, *optional*, defaults to 2.0):
            Divides the logits of both before the softmax of soft targets; higher ones tell more of unlikely classes.
        weight (`float`, *optional*, defaults to 0.9):
            The share of the teacher in the loss, in (0, 1]; the rest are the labels.
        teacher_dtype (`str`, *optional*, defaults to `"student"`):
            `"student"`: the teacher computes in the precision of the training; `"own"`: as it was loaded.
        cache_logits (`bool`, *optional*, defaults to `False`):
            Whether to run the teacher once over all training images before training, instead of once per batch. For
            data sets that fit into memory, and only for images that are the same every time.

    Raises:
        ValueError: If a value is not allowed.
    """

    kind: str = "soft"
    temperature: float = 2.0
    weight: float = 0.9
    teacher_dtype: str = "student"
    cache_logits: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("teacher_dtype", TEACHER_DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}."
                )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {self.temperature!r}.")
        if not 0 < self.weight <= 1:
            raise ValueError(
                f"weight must be in (0, 1], got {self.weight!r}. Without a teacher leave distillation out."
            )


class Teacher:
    """A frozen classifier on the device of the training.

    Args:
        model (`PreTrainedModel`):
            An image classifier; it stays as it is, a copy is moved.
        config ([`DistillationConfig`]):
            Which precision it computes in, and what is learned from it.
        args (`TrainingArguments`):
            Name the device and the precision of the training.
        student_dtype (`torch.dtype`):
            Of the student's weights.
    """

    def __init__(
        self, model: PreTrainedModel, config: DistillationConfig, args: TrainingArguments, student_dtype: torch.dtype
    ):
        self.config = config
        self.device = args.device
        self.autocast_dtype = None
        model = copy.deepcopy(model).eval().requires_grad_(False).to(self.device)
        if config.teacher_dtype == "student":
            self.autocast_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
            model = model.to(student_dtype)
        self.model = model

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, num_labels]` in float32 of pixel values `[batch, C, H, W]`."""
        pixel_values = pixel_values.to(self.device, self.model.dtype)
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            return self.model(pixel_values).logits.float()

    def loss(
        self, outputs: ModelOutput, labels: torch.Tensor, teacher_logits: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        """The loss of a student's outputs, a scalar: labels and teacher, weighted.

        Args:
            outputs: Of the student, with `logits` `[batch, num_labels]`, and those of both heads if it has two.
            labels: Classes `[batch]`, or their probabilities `[batch, num_labels]`.
            teacher_logits: `[batch, num_labels]`.
            smoothing: Label smoothing, a share in [0, 1).
        """
        has_two_heads = outputs.get("distillation_logits") is not None
        of_labels = outputs.cls_logits if has_two_heads else outputs.logits
        of_teacher = outputs.distillation_logits if has_two_heads else outputs.logits
        label_loss = F.cross_entropy(of_labels.float(), labels, label_smoothing=smoothing)
        teacher_loss = distillation_loss(of_teacher.float(), teacher_logits, self.config)
        return (1 - self.config.weight) * label_loss + self.config.weight * teacher_loss


def distillation_loss(logits: torch.Tensor, teacher_logits: torch.Tensor, config: DistillationConfig) -> torch.Tensor:
    """How far logits are from a teacher's, both `[batch, num_labels]`: a scalar, the mean over the batch.

    Soft: the Kullback-Leibler divergence of the probabilities at the temperature, times its square, so that gradients
    do not shrink with it. Hard: the cross-entropy with the teacher's classes.
    """
    if config.kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(dim=-1))
    temperature = config.temperature
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2


def load_teacher(
    teacher: str | Path | PreTrainedModel, student: PreTrainedModel, image_processor: BaseImageProcessor | None
) -> PreTrainedModel:
    """A classifier that can teach the student.

    Args:
        teacher (`str`, `Path` or `PreTrainedModel`):
            A folder, Hub id or short name of any image classifier of transformers, or a loaded one.
        student (`PreTrainedModel`):
            Who is to learn.
        image_processor (`BaseImageProcessor`, *optional*):
            The student's. A teacher that is loaded by name must prepare images in the same way.

    Raises:
        TypeError: If `teacher` is neither.
        ValueError: If there is no such folder, it is no trained classifier, or has other labels, another image size or
            another preparation.
    """
    if isinstance(teacher, (str, Path)):
        check_path(teacher)
        teacher_processor = load_image_processor(teacher)
        _check_preparation(image_processor, teacher_processor)
        name, options = teacher, {"output_loading_info": True}
        sounds = reads_sounds(student.config)
        auto_class = AutoModelForAudioClassification if sounds else AutoModelForImageClassification
        teacher, loaded = auto_class.from_pretrained(resolve_name(name), **options)
        if loaded["missing_keys"]:  # transformers fills them with random numbers
            raise ValueError(
                f"{name} has no weights for {', '.join(sorted(loaded['missing_keys']))}, so it cannot teach. "
                "Fine-tune it first, or name a trained classifier."
            )
    if not isinstance(teacher, PreTrainedModel):
        raise TypeError(f"A teacher is a name or a loaded image classifier, got {type(teacher).__name__}.")
    _check_labels(student.config, teacher.config, type(teacher).__name__)
    names = [input_name(config) for config in (student.config, teacher.config)]
    if names[0] != names[1]:
        raise ValueError(f"The teacher reads {names[1]}, the student {names[0]}; both see the same.")
    if reads_sounds(student.config):
        shapes = [input_shape(config) for config in (student.config, teacher.config)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The teacher reads spectrograms of shape {shapes[1]}, the student of {shapes[0]} (frames, mel bins). "
                "Both see the same; use a teacher for that shape."
            )
        return teacher
    sizes: list[Any] = [getattr(config, "image_size", None) for config in (student.config, teacher.config)]
    if None not in sizes and as_pair(sizes[0]) != as_pair(sizes[1]):
        raise ValueError(
            f"The teacher reads images of {sizes[1]} pixels, the student of {sizes[0]}. Both see the same pixel "
            "values; use a teacher for that size."
        )
    return teacher


def with_teacher_logits(dataset: Any, teacher: Teacher, batch_size: int) -> "_TaughtDataset":
    """The items of a training set, each with the teacher's logits under `"teacher_logits"`.

    The processes of a job share the work.

    Raises:
        ValueError: If the data set is a stream, or gives other pixel values each time.
    """
    if not isinstance(dataset, PixelDataset):
        raise ValueError("cache_logits=True needs a training set with a length, not a stream. Set it to False.")
    for index in {0, len(dataset) // 2, len(dataset) - 1}:
        once, again = (model_inputs(dataset[index]) for _ in range(2))
        if not torch.equal(once, again):
            raise ValueError(
                f"cache_logits=True needs images that are the same every time; image {index} of the training set is "
                "not. Set it to False, or leave out what transforms the images at random."
            )
    state = process_state()
    mine = range(state.process_index, len(dataset), state.num_processes)
    loader = torch_data.DataLoader(torch_data.Subset(dataset, mine), batch_size=batch_size)
    logits = torch.zeros(len(dataset), teacher.model.config.num_labels)
    logits[list(mine)] = torch.cat([teacher(model_inputs(batch)).cpu() for batch in loader])
    if state.num_processes > 1:
        logits = reduce(logits.to(state.device), "sum").cpu()
    return _TaughtDataset(dataset, logits)


class _TaughtDataset(torch_data.Dataset):
    def __init__(self, dataset: PixelDataset, logits: torch.Tensor):
        self.dataset = dataset
        self.logits = logits

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], TEACHER_LOGITS: self.logits[index]}


def _check_labels(student: Any, teacher: Any, class_name: str) -> None:
    if not any(task in class_name for task in ("ImageClassification", "AudioClassification")):
        raise ValueError(f"{class_name} has no classifier; a teacher is a model for image or audio classification.")
    if teacher.num_labels != student.num_labels:
        raise ValueError(
            f"The teacher has {teacher.num_labels} labels, the student {student.num_labels}; both need the same. "
            "Fine-tune the teacher on the student's labels first."
        )
    ours, theirs = student.id2label, teacher.id2label
    if has_names(ours) and has_names(theirs):
        for index, name in ours.items():
            if theirs.get(index) != name:
                raise ValueError(
                    f"Label {index} is {name!r} to the student and {theirs.get(index)!r} to the teacher; both need "
                    "the same labels in the same order."
                )


def _check_preparation(ours: BaseImageProcessor | None, theirs: BaseImageProcessor | None) -> None:
    if ours is None or theirs is None:
        return  # pixel values come ready, or nothing is known
    theirs_seen = _preparation(theirs)
    for name, value in _preparation(ours).items():
        if theirs_seen.get(name) != value:
            raise ValueError(
                f"The image processors of student and teacher differ in {name}: {value} and {theirs_seen.get(name)}. "
                "Both see the same pixel values; use a teacher that reads images prepared in the same way, or load it "
                "and pass the model, if you know that the difference does not matter."
            )


def _preparation(processor: BaseImageProcessor) -> dict[str, Any]:
    """What decides over pixel values. How images come to their size does not: a teacher copes with another crop."""
    if isinstance(processor, SequenceFeatureExtractor):
        return {name: getattr(processor, name, None) for name in _SOUND_SETTINGS}
    settings = {name: getattr(processor, name, None) for name in ("do_rescale", "do_normalize")}
    if settings["do_rescale"]:
        settings["rescale_factor"] = round(processor.rescale_factor, 8)
    if settings["do_normalize"]:
        settings |= {name: [round(x, 6) for x in getattr(processor, name)] for name in ("image_mean", "image_std")}
    is_cropped = getattr(processor, "do_center_crop", None) and processor.crop_size
    size = dict(processor.crop_size if is_cropped else processor.size or {})
    edge = size.get("shortest_edge")
    settings["size"] = (size.get("height") or edge, size.get("width") or edge)
    return settings

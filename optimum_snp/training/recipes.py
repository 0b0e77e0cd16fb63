"""Recipes: training arguments and augmentation that belong together."""

from dataclasses import dataclass, fields, replace
from typing import Any

from transformers import TrainingArguments


# What `Recipe.without` switches off, each by setting its field to zero.
PARTS = (
    "crop",
    "flip",
    "rand_augment",
    "color_jitter",
    "random_erasing",
    "mixup",
    "cutmix",
    "label_smoothing",
    "drop_path",
    "ema",
    "warmup",
)

_SHARES = ("crop", "flip", "color_jitter", "random_erasing", "label_smoothing", "drop_path", "ema", "warmup")

# Learning rates are stated for this many images per step.
BATCH = 512


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned: schedule, augmentation and regularisation of DeiT (arXiv 2012.12877, table 9).

    A part whose value is zero is off. Fields of the schedule reach a training through [`Recipe.training_arguments`];
    `SNPPruner.finetune(recipe=...)` applies the others.

    Args:
        epochs (`float`): Passes over the training set.
        learning_rate (`float`): The highest, of AdamW, for 512 images per step; it is scaled with their number.
        warmup (`float`): Share of the training over which the rate rises to that. It then falls along a cosine to a
            hundredth.
        weight_decay (`float`): Of AdamW.
        label_smoothing (`float`): Share of the probability that is spread over all classes.
        crop (`float`): A random crop keeps at least this share of the image's area, and is resized.
        flip (`float`): Share of the images that are mirrored.
        rand_augment (`float`): Strength, up to 10, of two random operations per image (RandAugment). Needs
            torchvision.
        color_jitter (`float`): How far brightness, contrast and colour change, where there is no RandAugment.
        random_erasing (`float`): Share of the images in which a rectangle is replaced by noise. Needs torchvision.
        mixup (`float`): Parameter of the beta distribution by which pairs of images are blended.
        cutmix (`float`): The same, for pasting a part of one into the other. With both, each has half of the batches.
        drop_path (`float`): Share of the images for which the last block is left out (stochastic depth), growing from
            0 in the first.
        ema (`float`): How much of the moving average of the weights stays in a step; the average is what evaluation
            and saving after the training see. It is less in the first steps, (1 + steps) / (10 + steps).
        layer_decay (`float`): Factor of the learning rate from each block to the one before it; 1 is off.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: float
    learning_rate: float
    warmup: float = 0.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    crop: float = 0.08
    flip: float = 0.5
    rand_augment: float = 9.0
    color_jitter: float = 0.3
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    drop_path: float = 0.1
    ema: float = 0.99996
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            upper = 1 if field.name in (*_SHARES, "layer_decay") else 10 if field.name == "rand_augment" else None
            if not value >= 0 or (upper is not None and value > upper) or value == float("inf"):
                allowed = "a number from 0" + (f" to {upper}" if upper else "")
                raise ValueError(f"{field.name} must be {allowed}, got {value!r}.")
        for name in ("epochs", "learning_rate", "layer_decay"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be greater than 0.")
        for name in ("label_smoothing", "drop_path", "ema"):
            if getattr(self, name) == 1:
                raise ValueError(f"{name} must be less than 1.")

    @classmethod
    def from_preset(cls, name: str) -> "Recipe":
        """A recipe by its name.

        `"deit-300"` is what SNP's authors did: 300 epochs from a learning rate of 1e-3 without warm-up. `"deit-20"`
        is our short form of it: 20 epochs from 2.5e-4, one of them to warm up.

        Raises:
            ValueError: If there is none of that name; the message lists them.
        """
        if name not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(map(repr, RECIPES))}, got {name!r}.")
        return RECIPES[name]

    def without(self, *parts: str) -> "Recipe":
        """The recipe with these parts switched off.

        Raises:
            ValueError: If there is no such part; the message lists them.
        """
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise ValueError(f"A recipe has no part {unknown[0]!r} to leave out; its parts are {', '.join(PARTS)}.")
        return replace(self, **dict.fromkeys(parts, 0.0))

    def schedule(self) -> dict[str, Any]:
        """The recipe's fields of [`~transformers.TrainingArguments`], all but the learning rate."""
        return {
            "num_train_epochs": self.epochs,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
            "warmup_steps": self.warmup,
            "weight_decay": self.weight_decay,
            "label_smoothing_factor": self.label_smoothing,
        }

    def scaled_learning_rate(self, args: TrainingArguments) -> float:
        """The learning rate for as many images per step as the arguments make it, on all devices together."""
        return self.learning_rate * args.train_batch_size * args.gradient_accumulation_steps * args.world_size / BATCH

    def training_arguments(self, output_dir: str, **options: Any) -> TrainingArguments:
        """The schedule of the recipe as [`~transformers.TrainingArguments`].

        Args:
            output_dir (`str`): As there.
            options: Further arguments; they overrule the recipe's.
        """
        args = TrainingArguments(output_dir, **{**self.schedule(), **options})
        if "learning_rate" not in options:
            args.learning_rate = self.scaled_learning_rate(args)
        return args


RECIPES = {
    "deit-20": Recipe(epochs=20, learning_rate=2.5e-4, warmup=0.05),
    "deit-300": Recipe(epochs=300, learning_rate=1e-3),
}

"""The demo's dense models: a small DeiT and a small Swin, each trained from scratch in a few minutes on two cores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTImageProcessorPil,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from .data import IMAGE_SIZE, AugmentedDigits


_NAMES = {digit: str(digit) for digit in range(10)}
_LABELS = {"id2label": _NAMES, "label2id": {name: digit for digit, name in _NAMES.items()}}


def build_dense_deit() -> DeiTForImageClassification:
    """An untrained DeiT: 32 px, patch 4, 6 layers of 3 heads, width 96; 0.68 M parameters."""
    config = DeiTConfig(
        image_size=IMAGE_SIZE,
        patch_size=4,
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=384,
        initializer_range=0.1,
        **_LABELS,
    )
    model = DeiTForImageClassification(config)
    start_positions(model)
    return model


def build_dense_swin() -> SwinForImageClassification:
    """An untrained Swin: 32 px, patch 2, windows of 4, 3 stages of 2 layers, widths 32 to 128; 0.57 M parameters."""
    config = SwinConfig(
        image_size=IMAGE_SIZE,
        patch_size=2,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[1, 2, 4],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.1,
        **_LABELS,
    )
    return SwinForImageClassification(config)


@dataclass(frozen=True)
class DenseModel:
    """A model that the demo trains and prunes.

    Attributes:
        build (`Callable`): Makes it, untrained.
        epochs (`int`): Passes over the training digits that take it to about 97 %.
        half_the_flops (`dict[str, float]`): Shares for [`SNPConfig`] that remove half of its FLOPs.
    """

    build: Callable[[], PreTrainedModel]
    epochs: int
    half_the_flops: dict[str, float]


_HALF = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5}
# The width makes up for patch embedding, patch merging and classifier, which have no size of their own to halve.
DENSE_MODELS = {
    "deit": DenseModel(build_dense_deit, 8, {**_HALF, "hidden_sparsity": 0.02}),
    "swin": DenseModel(build_dense_swin, 8, {**_HALF, "hidden_sparsity": 0.05}),
}


@torch.no_grad()
def start_positions(model: PreTrainedModel) -> None:
    """Starts the learned position embeddings of a ViT or DeiT from a sine-cosine table, in place.

    Patches are told apart by their place from the first step on, which saves most of the training time.
    """
    grid = IMAGE_SIZE // model.config.patch_size
    table = _sine_cosine(grid, model.config.hidden_size)
    model.base_model.embeddings.position_embeddings[0, -grid * grid :] = table


def build_image_processor() -> DeiTImageProcessorPil:
    """Resizes to 32x32 and maps pixels to [-1, 1]."""
    half = [0.5] * 3
    return DeiTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False, image_mean=half, image_std=half
    )


def train_dense(
    build: Callable[[], PreTrainedModel],
    train_digits: datasets.Dataset,
    output_dir: str,
    *,
    epochs: int,
    seed: int,
    callbacks: list[TrainerCallback] | None = None,
) -> PreTrainedModel:
    """Builds a model and trains it with `transformers.Trainer`; the result is in eval mode."""
    set_seed(seed)
    model = build()
    args = training_arguments(output_dir, epochs=epochs, learning_rate=1e-3, seed=seed)
    Trainer(model, args, train_dataset=AugmentedDigits(train_digits), callbacks=callbacks).train()
    return model.eval()


def training_arguments(output_dir: str, *, epochs: int, learning_rate: float, seed: int) -> TrainingArguments:
    """The recipe of the dense models; fine-tuning uses it with fewer epochs and a lower rate."""
    options: dict[str, Any] = {
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "seed": seed,
        "per_device_train_batch_size": 50,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
        "weight_decay": 0.05,
        "adam_beta2": 0.98,
        "label_smoothing_factor": 0.05,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(output_dir, **options)


def _sine_cosine(grid: int, width: int) -> torch.Tensor:
    """A sine-cosine table over a square grid, `[grid * grid, width]`."""
    frequencies = torch.pi * 2.0 ** torch.linspace(-2.5, 2, width // 4)
    angles = torch.linspace(-1, 1, grid).unsqueeze(1) * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis.unsqueeze(1).expand(-1, grid, -1), axis.unsqueeze(0).expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)

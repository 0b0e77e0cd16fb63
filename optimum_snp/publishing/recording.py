"""Measuring, and finding out what a measurement was made on."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel

from ..benchmarking import machine_name, measure_latency
from ..benchmarking.plausible import warn_of_speed_up
from ..calibration import model_fingerprint
from ..checks import check_positive_integer
from ..data import SINGLE_LABEL, problem_type
from ..families import convert
from ..loading import load_source
from ..metrics.zero_shot import digest_of, evaluate_zero_shot, tokens_of
from ..processes import run_on_main_process
from ..random_images import random_images
from ..record import ModelRecord
from ..record.measurements import Accuracy, Latency, Stage
from ..structure.costs import count_macs, count_parameters
from ..training import evaluate_accuracy


# Builders of `datasets` that read files of any data set: their names tell nothing.
_GENERIC_BUILDERS = {"arrow", "csv", "generator", "imagefolder", "json", "pandas", "parquet", "sql", "webdataset"}


def identify_dataset(dataset: Any, dataset_name: str | None = None) -> dict[str, str | None]:
    """What is known of a data set's identity.

    Args:
        dataset:
            Of any kind that [`optimum_snp.data.pixels`] lists.
        dataset_name (`str`, *optional*):
            Its name, where the caller knows it.

    Returns:
        `dict`: `dataset` (name), `dataset_id` (on the Hub) and `split`, each `None` where it is not known.
    """
    identity: dict[str, str | None] = {"dataset": dataset_name, "dataset_id": None, "split": None}
    if isinstance(dataset, (str, Path)):
        identity["dataset"] = dataset_name or folder_name(dataset)
    elif isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        info = dataset.info
        found = re.match(r"hf://datasets/([^@]+)@", next(iter(info.download_checksums or {}), ""))
        is_local = found is None and info.builder_name in _GENERIC_BUILDERS
        identity["dataset_id"] = found.group(1) if found else None
        identity["dataset"] = dataset_name or identity["dataset_id"] or (None if is_local else info.dataset_name)
        # Of files without splits `datasets` says that they are the training split.
        identity["split"] = None if is_local or dataset.split is None else str(dataset.split)
    return identity


def folder_name(path: str | Path) -> str:
    """The last part of a path, since the whole is nobody's business."""
    return Path(path).expanduser().resolve().name


def record_accuracy(
    record: ModelRecord, eval_dataset: Any, *, dataset_name: str | None, **options: Any
) -> dict[str, float]:
    """Measures a model on labelled images; see [`SNPPruner.evaluate`]. Cards state accuracies, no other metrics."""
    metrics, num_images = evaluate_accuracy(
        record.model, eval_dataset, image_processor=record.image_processor, **options
    )
    if problem_type(record.model.config) == SINGLE_LABEL:
        record.measurements.add(
            Accuracy(
                stage=record.measurements.stage,
                weights=model_fingerprint(record.model),
                num_images=num_images,
                **metrics,
                **identify_dataset(eval_dataset, dataset_name),
            )
        )
    return metrics


def record_zero_shot(
    record: ModelRecord,
    eval_dataset: Any,
    classes: Sequence[str],
    texts: Mapping[str, torch.Tensor] | torch.Tensor | Sequence[str],
    *,
    dataset_name: str | None,
    **options: Any,
) -> dict[str, float]:
    """Measures how a model names classes by texts; see [`SNPPruner.evaluate_zero_shot`]."""
    if not isinstance(texts, (torch.Tensor, Mapping)):
        texts = tokens_of(texts, record.tokenizer, record.model.config)
    metrics, num_images = evaluate_zero_shot(
        record.model, eval_dataset, classes, texts, image_processor=record.image_processor, **options
    )
    record.measurements.add(
        Accuracy(
            stage=record.measurements.stage,
            weights=model_fingerprint(record.model),
            num_images=num_images,
            texts=digest_of(classes, texts),
            **metrics,
            **identify_dataset(eval_dataset, dataset_name),
        )
    )
    return metrics


def record_latency(
    record: ModelRecord, original: str | Path | PreTrainedModel | None, *, batch_size: int, num_runs: int
) -> dict[str, float]:
    """Measures a model and, in turn with it, the one that it was pruned from; see [`SNPPruner.measure_latency`].

    One process measures while the others wait: they share the machine, and would slow each other down.
    """
    for name, value in (("batch_size", batch_size), ("num_runs", num_runs)):
        check_positive_integer(name, value)
    latencies = run_on_main_process(lambda: _measure(record, original, batch_size=batch_size, num_runs=num_runs))
    for latency in latencies.values():
        record.measurements.add(latency)
    return {name: latency.seconds for name, latency in latencies.items()}


def _measure(
    record: ModelRecord, original: str | Path | PreTrainedModel | None, *, batch_size: int, num_runs: int
) -> dict[str, Latency]:
    stages = {"model": record.measurements.stage}
    models = {"model": record.model}
    if original is not None:
        stages["original"], models["original"] = Stage(), _copy_of_original(original, record)
    seconds = measure_latency(models, random_images(record.model, batch_size), num_runs=num_runs)
    if original is not None:
        macs = record.plan.steps[0].macs_before, count_macs(record.model)
        warn_of_speed_up("The pruned model", seconds["original"], seconds["model"], *macs)
    device = record.model.device
    return {
        name: Latency(
            stage=stage,
            weights=model_fingerprint(record.model) if name == "model" else "",
            seconds=seconds[name],
            batch_size=batch_size,
            machine=machine_name(device),
            threads=torch.get_num_threads() if device.type == "cpu" else None,
            dtype=str(record.model.dtype).removeprefix("torch."),
            torch=torch.__version__,
        )
        for name, stage in stages.items()
    }


def _copy_of_original(original: str | Path | PreTrainedModel, record: ModelRecord) -> PreTrainedModel:
    """The dense model in transformers' own class, since that is what it is pruned instead of."""
    if record.plan is None:
        raise ValueError("The model is not pruned, so there is no original to measure beside it. Leave it out.")
    if not isinstance(original, PreTrainedModel):
        original = load_source(original)
    expected, found = record.plan.steps[0].parameters_before, count_parameters(convert(original))
    if found != expected:
        raise ValueError(
            f"The original has {found} parameters; the model that was pruned had {expected}. Name that one."
        )
    return copy.deepcopy(original).to(device=record.model.device, dtype=record.model.dtype).eval()

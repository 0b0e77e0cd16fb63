"""Evaluates and times models side by side, under the same conditions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object

from ..benchmarking.benchmark import benchmark
from ..calibration.images import choose_images
from ..devices import put_back
from ..models import SNPModel, has_classifier
from ..processes import process_state
from ..pruner import SNPPruner
from ..structure.costs import count_macs, count_parameters
from .compared import Comparison, Row


def compare(
    models: Mapping[str, str | Path],
    dataset: Any = None,
    *,
    labelled: bool = True,
    num_samples: int | None = None,
    backends: Sequence[str] = (),
    num_runs: int = 30,
    batch_size: int = 32,
    dataset_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    label_map: Mapping[str, str | int] | None = None,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
) -> Comparison:
    """Accuracy, agreement with the first model, divergence from it, costs and latency of models.

    Args:
        models (`Mapping[str, str | Path]`):
            By name: folders of saved models, Hub ids or short names. The first is what the others are held against.
        dataset (*optional*):
            Images of the kinds that [`SNPPruner.evaluate`] takes; without, only costs and latency are told.
        labelled (`bool`, *optional*, defaults to `True`):
            Whether they have labels, so that accuracies are told.
        num_samples (`int`, *optional*):
            How many of them agreement and divergence are computed on, chosen at random with a fixed seed; by default
            all. The accuracy is that on all images.
        backends (`Sequence[str]`, *optional*):
            What the latency of one image on one thread is measured on; see [`benchmark`]. By default nothing is timed.
        num_runs (`int`, *optional*, defaults to 30):
            Timed passes of each model.
        batch_size (`int`, *optional*, defaults to 32):
            Images per forward pass.
        dataset_name, image_column, label_column, label_map, num_workers, skip_unreadable:
            As for [`SNPPruner.evaluate`].

    Returns:
        [`Comparison`]

    Raises:
        TypeError: If a model has no classifier and there is a dataset.
        ValueError: If there is no model, classes of the models differ, or as `evaluate` and `benchmark` do.
    """
    if not models:
        raise ValueError("A comparison needs at least one model.")
    pruners = {name: SNPPruner.from_pretrained(model) for name, model in models.items()}
    rows = {
        name: Row(
            name,
            count_macs(pruner.model),
            count_parameters(pruner.model),
            pruner.measurements.calibration_images,
        )
        for name, pruner in pruners.items()
    }
    comparison = Comparison(list(rows.values()))
    if dataset is not None:
        _check_classes(pruners)
        reading: dict[str, Any] = {
            "image_column": image_column,
            "num_workers": num_workers,
            "skip_unreadable": skip_unreadable,
        }
        labels: dict[str, Any] = {"label_column": label_column, "label_map": label_map}
        for name, pruner in pruners.items() if labelled else ():
            metrics = pruner.evaluate(dataset, batch_size=batch_size, dataset_name=dataset_name, **reading, **labels)
            rows[name].accuracy = metrics.get("accuracy")
        first, *others = pruners
        logits = {name: _logits(pruner, dataset, num_samples, batch_size, reading) for name, pruner in pruners.items()}
        for name in others:
            rows[name].agreement, rows[name].divergence = _distance(logits[first], logits[name])
        comparison.dataset = dataset_name or "the data set"
        comparison.num_images = len(logits[first])
    if backends:
        report = benchmark(models, backends=backends, batch_sizes=[1], threads=[1], num_runs=num_runs, memory=False)
        for measured in report.rows:
            rows[measured.model].seconds[measured.backend] = measured.seconds
        comparison.machine = report.machine
    return comparison


def _check_classes(pruners: Mapping[str, SNPPruner]) -> None:
    first = next(iter(pruners))
    for name, pruner in pruners.items():
        if not has_classifier(pruner.model):
            raise TypeError(f"{name} has no classifier to evaluate. Leave out the dataset, or that model.")
        if pruner.model.config.num_labels != pruners[first].model.config.num_labels:
            raise ValueError(
                f"{name} has {pruner.model.config.num_labels} classes, {first} "
                f"{pruners[first].model.config.num_labels}: their predictions cannot be compared. Leave one out."
            )


@torch.inference_mode()
def _logits(
    pruner: SNPPruner, dataset: Any, num_samples: int | None, batch_size: int, reading: dict[str, Any]
) -> torch.Tensor:
    """The logits of all processes, `[images, classes]` in float32 on the CPU, in one order for all models."""
    images = choose_images(
        pruner.model,
        dataset,
        num_samples=num_samples or len(dataset),
        batch_size=batch_size,
        image_processor=pruner.image_processor,
        **reading,
    )
    model: SNPModel = pruner.model
    with put_back(model):
        model.to(process_state().device).eval()
        logits = [model(batch.to(model.dtype)).logits.float().cpu() for batch in images.batches()]
    return torch.cat(gather_object(logits))


def _distance(dense: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """The share of equal classes, and the mean KL divergence in nats."""
    agreement = (dense.argmax(-1) == other.argmax(-1)).double().mean().item()
    divergence = F.kl_div(
        other.double().log_softmax(-1), dense.double().log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return agreement, divergence.item()

"""What a classifier is measured by, as `compute_metrics` of a Trainer, for each problem that it can solve."""

from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
import torch
from transformers import EvalPrediction

from .multi_label import f1_scores, mean_average_precision
from .regression import mean_squared_error, r2_score


_TOPK_ACCURACY = Path(__file__).parent / "topk_accuracy"

METRIC_NAMES = ("accuracy", "top5_accuracy", "f1_micro", "f1_macro", "mean_average_precision", "mse", "r2")

# A Trainer's `compute_metrics`, and the `preprocess_logits_for_metrics` that goes with it.
Metric = tuple[Callable[[EvalPrediction], dict[str, float]], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]


def metric_of(problem_type: str) -> Metric:
    """The metrics of a problem of transformers.

    Args:
        problem_type (`str`):
            `"single_label_classification"`: `accuracy` and `top5_accuracy`; `"multi_label_classification"`:
            `f1_micro`, `f1_macro` and `mean_average_precision`; `"regression"`: `mse` and `r2`.
    """
    if problem_type == "multi_label_classification":
        return multi_label_metrics, first_output
    if problem_type == "regression":
        return regression_metrics, first_output
    return topk_accuracy, top_labels


def first_output(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The logits alone, of what a model puts out."""
    return logits[0] if isinstance(logits, tuple) else logits


def top_labels(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The five labels with the highest logits, `[batch, 5]` or fewer, for `preprocess_logits_for_metrics`."""
    logits = first_output(logits, labels)
    return logits.topk(min(5, logits.shape[-1]), dim=-1).indices


def topk_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """`accuracy` and `top5_accuracy` of what `top_labels` kept, for `compute_metrics` of a Trainer."""
    # In memory: the processes of one job must not share a cache file.
    metric = evaluate.load(str(_TOPK_ACCURACY), keep_in_memory=True)
    return metric.compute(predictions=np.asarray(prediction.predictions), references=prediction.label_ids)


def multi_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`f1_micro`, `f1_macro` and `mean_average_precision` of logits `[N, num_labels]`."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return f1_scores(logits > 0, labels > 0) | {"mean_average_precision": mean_average_precision(logits, labels > 0)}


def regression_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`mse` and `r2` of values `[N, num_labels]`."""
    labels = np.asarray(prediction.label_ids, dtype=np.float64)
    values = np.asarray(prediction.predictions, dtype=np.float64).reshape(labels.shape)
    return {"mse": mean_squared_error(values, labels), "r2": r2_score(values, labels)}


__all__ = [
    "METRIC_NAMES",
    "first_output",
    "metric_of",
    "multi_label_metrics",
    "regression_metrics",
    "top_labels",
    "topk_accuracy",
]

"""Metrics of our own, as modules of the `evaluate` library that load without network."""

from pathlib import Path

import evaluate
import numpy as np
import torch
from transformers import EvalPrediction


_TOPK_ACCURACY = Path(__file__).parent / "topk_accuracy"


def top_labels(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The five labels with the highest logits, `[batch, 5]` or fewer, for `preprocess_logits_for_metrics`."""
    if isinstance(logits, tuple):
        logits = logits[0]
    return logits.topk(min(5, logits.shape[-1]), dim=-1).indices


def topk_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """`accuracy` and `top5_accuracy` of what `top_labels` kept, for `compute_metrics` of a Trainer."""
    # In memory: the processes of one job must not share a cache file.
    metric = evaluate.load(str(_TOPK_ACCURACY), keep_in_memory=True)
    return metric.compute(predictions=np.asarray(prediction.predictions), references=prediction.label_ids)


__all__ = ["top_labels", "topk_accuracy"]

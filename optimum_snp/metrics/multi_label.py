"""How well a model tells which of several classes an image has; as scikit-learn defines these scores."""

import numpy as np


def f1_scores(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """F1 over all decisions together (`f1_micro`), and its mean over the classes (`f1_macro`), each in [0, 1].

    Args:
        predicted, labels (`np.ndarray` of `bool`, `[N, num_labels]`):
            Decisions and truth. A class that is neither predicted nor there scores 0, as in scikit-learn.
    """
    hits = (predicted & labels).sum(axis=0)
    wrong = (predicted ^ labels).sum(axis=0)
    return {
        "f1_micro": float(2 * hits.sum() / max(2 * hits.sum() + wrong.sum(), 1)),
        "f1_macro": float(np.mean(2 * hits / np.maximum(2 * hits + wrong, 1))),
    }


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the classes' average precisions, of those that some image has; NaN where none has any.

    The average precision of a class is the sum of `(R_n - R_{n-1}) P_n` over the thresholds, with precision `P_n` and
    recall `R_n` at the n-th, falling.

    Args:
        scores (`np.ndarray` `[N, num_labels]`):
            Higher is likelier.
        labels (`np.ndarray` of `bool`, `[N, num_labels]`):
            The truth.
    """
    found = [_average_precision(scores[:, number], labels[:, number]) for number in np.flatnonzero(labels.any(axis=0))]
    return float(np.mean(found)) if found else float("nan")


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal scores have one threshold
    hits = np.cumsum(labels)[ends]
    precision, recall = hits / (ends + 1), hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))

"""How near predicted numbers are to the true ones; as scikit-learn defines these scores."""

import numpy as np


def mean_squared_error(values: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the squared differences of values and labels, both `[N]` or `[N, num_labels]`."""
    return float(np.mean(np.square(values - labels)))


def r2_score(values: np.ndarray, labels: np.ndarray) -> float:
    """The share of the labels' variance that values explain, the mean over columns; NaN where labels do not vary.

    1 is perfect, 0 is as good as the mean of the labels, and less is worse than that.
    """
    values, labels = values.reshape(len(labels), -1), labels.reshape(len(labels), -1)
    variances = np.square(labels - labels.mean(axis=0)).sum(axis=0)
    if not (variances > 0).all():
        return float("nan")
    return float(np.mean(1 - np.square(values - labels).sum(axis=0) / variances))

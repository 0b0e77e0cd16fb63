"""Top-1 and top-5 accuracy as a module of the `evaluate` library, loaded from this file without network."""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = "Share of the images whose label is the first, or among the first five, of the predicted labels."

_INPUTS = """
Args:
    predictions (`list[list[int]]`): Per image the labels by falling score, at least one and no more than five.
    references (`list[int]`): The true labels.
Returns:
    accuracy (`float`): Share of the images whose first prediction is right.
    top5_accuracy (`float`): Share of the images with the right label among the predictions.
"""


class TopKAccuracy(evaluate.Metric):
    """Top-1 and top-5 accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int32")),
                    "references": datasets.Value("int32"),
                }
            ),
        )

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        hits = np.asarray(predictions) == np.asarray(references)[:, None]
        return {"accuracy": float(hits[:, 0].mean()), "top5_accuracy": float(hits.any(axis=1).mean())}

"""Top-1 and top-5 by the `evaluate` library, without network."""

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from optimum_snp.metrics import top_labels, topk_accuracy


@pytest.mark.parametrize("num_labels", [2, 5, 9])
def test_against_a_direct_count(num_labels):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, num_labels)).astype(np.float32)
    labels = generator.integers(0, num_labels, 50)
    top1 = np.mean([row.argmax() == label for row, label in zip(logits, labels, strict=True)])
    top5 = np.mean([label in np.argsort(-row)[:5] for row, label in zip(logits, labels, strict=True)])
    predictions = top_labels(torch.tensor(logits), torch.tensor(labels)).numpy()
    result = topk_accuracy(EvalPrediction(predictions=predictions, label_ids=labels))
    assert result == {"accuracy": pytest.approx(top1), "top5_accuracy": pytest.approx(top5)}


def test_first_of_several_outputs_is_ranked():
    logits = torch.randn(3, 6)
    assert torch.equal(top_labels((logits, -logits), None), logits.argsort(-1, descending=True)[:, :5])

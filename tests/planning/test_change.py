"""How far pruned models are from the dense one: features of a narrower stream by their likeness."""

import numpy as np
import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.planning.change import ChangeOfOutputs
from optimum_snp.processes import process_state
from tests.helpers import build_source


IMAGES = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(6))


def likeness(first, second):
    """Linear CKA of rows, by their similarities with each other."""
    first, second = (rows - rows.mean(0) for rows in (first, second))
    first, second = first @ first.T, second @ second.T
    return (first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second))


@pytest.mark.parametrize("class_name", ["IJepaModel", "Dinov2Backbone"])
def test_features_of_a_narrower_stream(class_name):
    pruner = SNPPruner(build_source(class_name))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    batches = IMAGES.split(5)
    change = ChangeOfOutputs(pruner.model, IMAGES.to(process_state().device).split(5))
    assert change.of(pruner.model) == pytest.approx(0, abs=1e-6)
    pruned = pruner.copy().prune(SNPConfig(hidden_sparsity=0.25, mlp_sparsity=0.5))
    expected = 0
    for batch in batches:
        rows = []
        for model in (pruner.model, pruned):
            with torch.no_grad():
                output = model(batch)
            if class_name == "Dinov2Backbone":
                rows.append(output.feature_maps[0].permute(0, 2, 3, 1).flatten(0, 2).double().numpy())
            else:
                rows.append(output.last_hidden_state.flatten(0, 1).double().numpy())
        assert rows[1].shape[1] < rows[0].shape[1]
        expected += len(batch) * (1 - likeness(*rows))
    assert change.of(pruned) == pytest.approx(expected, rel=1e-4)


def test_a_budget_of_tokens_for_features_of_a_narrower_stream():
    """Shares of tokens are compared although some of their plans are narrower."""
    pruner = SNPPruner(build_source("SiglipVisionModel"))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    plan = pruner.plan(SNPConfig(target_flops=0.4, token_sparsity="auto"))
    assert plan.macs_after <= 0.4 * plan.macs_before

"""Redundancy and residual scores against explicit double sums."""

import numpy as np
import pytest
import torch

from optimum_snp.families import convert
from optimum_snp.scoring.redundancy import redundancy_scores
from optimum_snp.scoring.residual import residual_scores
from optimum_snp.structure import describe
from tests.helpers import SWIN_CLASSES, build_source


def double_sum(rows):
    rows = np.asarray(rows.detach(), dtype=np.float64)
    scores = []
    for one in rows:
        total = 0.0
        for other in rows:
            total += 1 - abs(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
        scores.append(total)
    return np.array(scores)


@pytest.mark.parametrize(("num_rows", "inputs"), [(1, 4), (7, 3), (30, 50)])
def test_random_weights(num_rows, inputs):
    rows = torch.randn(num_rows, inputs)
    np.testing.assert_allclose(redundancy_scores(rows), double_sum(rows), rtol=1e-9, atol=1e-9)


def test_trained_weights_across_heads(trained):
    layer = convert(trained).base_model.layers[1]
    for rows in (layer.attention.v_proj.weight, layer.mlp.fc1.weight):
        np.testing.assert_allclose(redundancy_scores(rows), double_sum(rows), rtol=1e-6)


def test_copies_score_lowest_and_dead_rows_nothing():
    rows = torch.randn(6, 500)
    rows[4] = -2 * rows[1]
    rows[5] = 0
    scores = redundancy_scores(rows)
    assert scores[5] == 0
    assert set(scores[:5].argsort()[:2].tolist()) == {1, 4}


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_residual_scores(class_name):
    source = build_source(class_name)
    base = source.base_model
    embeddings = base.embeddings
    tokens = [embeddings.cls_token, embeddings.position_embeddings]
    if class_name.startswith("DeiT"):
        tokens.append(embeddings.distillation_token)
    producers = [embeddings.patch_embeddings.projection.weight.flatten(1), torch.cat(tokens, dim=1)[0].T]
    for layer in base.layers:
        producers += [layer.attention.o_proj.weight, layer.mlp.fc2.weight]
    shares = []
    for rows in producers:
        scores = double_sum(rows)
        shares.append(scores / scores.sum())
    model = convert(source)
    actual = residual_scores(model, describe(model).streams[0])
    np.testing.assert_allclose(actual, np.mean(shares, axis=0), rtol=1e-6)


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_residual_scores_of_every_stage(class_name, positions):
    """A stage begins with the patches and their positions, or with the patch merging before it."""
    source = build_source(class_name, use_absolute_embeddings=positions)
    swin = source.base_model
    first = [swin.embeddings.patch_embeddings.projection.weight.flatten(1)]
    if positions:
        first.append(swin.embeddings.position_embeddings[0].T)
    stages, expected = swin.encoder.layers, []
    for producers, stage in zip((first, [stages[0].downsample.reduction.weight]), stages, strict=True):
        for layer in stage.blocks:
            producers = [*producers, layer.attention.o_proj.weight, layer.mlp.fc2.weight]
        scores = [double_sum(rows) for rows in producers]
        expected.append(np.mean([rows / rows.sum() for rows in scores], axis=0))
    model = convert(source)
    actual = [residual_scores(model, stream) for stream in describe(model).streams]
    assert [len(scores) for scores in actual] == [12, 24]
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_producer_without_diversity_ranks_nothing(source):
    model = convert(source)
    with torch.no_grad():
        model.base_model.layers[0].mlp.fc2.weight.fill_(1.0)
    scores = residual_scores(model, describe(model).streams[0])
    assert scores.isfinite().all()
    assert scores.sum().item() == pytest.approx(1.0)

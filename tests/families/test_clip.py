"""What is special in CLIP: a norm before the blocks, embeddings that are compared by their angles, a bare stream."""

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration.sensitivities import counted_outputs
from optimum_snp.families import convert
from optimum_snp.methods import method_of
from optimum_snp.structure import describe
from tests.families.cases import IMAGES
from tests.helpers import build_source


@pytest.fixture(scope="module")
def calibrated():
    pruner = SNPPruner.from_pretrained(build_source("CLIPVisionModelWithProjection"))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    return pruner


def embeddings_of(model, images=IMAGES):
    with torch.inference_mode():
        return F.normalize(model(images).image_embeds, dim=-1)


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_a_narrower_stream_begins_behind_the_norm_before_the_blocks(calibrated, method):
    """What enters the first block is the dense stream in the kept directions."""
    pruner = calibrated.copy()
    dense, statistics = pruner.model, pruner.statistics
    plan = pruner.plan(SNPConfig(method=method, hidden_sparsity=0.5, reconstruction=False))
    model = pruner.prune(plan)
    assert (model.config.hidden_size, model.config.embedding_size) == (16, 32)
    for name in ("embeddings.cls_token", "embeddings.position_embeddings", "pre_layernorm.weight"):
        assert torch.equal(model.state_dict()[name], dense.state_dict()[name])
    with torch.inference_mode():
        before, after = (m(IMAGES, output_hidden_states=True).hidden_states[0] for m in (dense, model))
        kept = method_of(plan.config).kept_directions(dense, plan, statistics)[0].float()
        torch.testing.assert_close(after, before @ kept)


@pytest.mark.parametrize("method", ["snp", "snp-refit", "projection"])
def test_the_width_is_pruned_a_second_time(calibrated, method):
    pruner = calibrated.copy()
    pruner.prune(SNPConfig(method=method, hidden_sparsity=0.25))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    model = pruner.prune(SNPConfig(method=method, hidden_sparsity=0.5))
    assert model.config.hidden_size == 12
    assert model.config.embedding_size == (None if method == "snp" else 32)
    assert torch.isfinite(model(IMAGES).image_embeds).all()


def test_refits_keep_more_of_the_angles_than_a_selection(calibrated):
    expected = embeddings_of(calibrated.model)
    similarity = {}
    for method in ("snp", "snp-refit", "projection"):
        pruner = calibrated.copy()
        pruner.prune(SNPConfig(method=method, hidden_sparsity=0.3))
        similarity[method] = (embeddings_of(pruner.model) * expected).sum(dim=-1).mean().item()
    assert similarity["snp"] < min(similarity["snp-refit"], similarity["projection"])


def test_only_the_direction_of_embeddings_counts(calibrated):
    model = calibrated.model
    output = model(IMAGES)
    (counted,) = counted_outputs(output, model.config)
    torch.testing.assert_close(counted, F.normalize(output.image_embeds, dim=-1) * 24**0.5)
    output.image_embeds = output.image_embeds * 7
    torch.testing.assert_close(counted_outputs(output, model.config)[0], counted)


def test_the_projection_is_refitted_to_directions():
    """Errors relative to the lengths of the dense embeddings: weighted least squares, computed anew."""
    pruner = SNPPruner.from_pretrained(build_source("CLIPVisionModelWithProjection"))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES), batch_size=5)
    dense = pruner.model
    model = pruner.prune(SNPConfig(method="projection", mlp_sparsity=0.9, reconstruction=True))
    with torch.inference_mode():
        outputs = [one(IMAGES, output_hidden_states=True) for one in (model, dense)]
        rows = model.layernorm(outputs[0].hidden_states[-1][:, 0]).double()
        targets = outputs[1].image_embeds.double()
        weight, prior = model.visual_projection.weight.double(), dense.visual_projection.weight.double()
    weights = 1 / targets.square().sum(dim=1, keepdim=True)
    moment = (weights * rows).T @ rows / weights.sum()
    ridge = (64 / len(IMAGES)) ** 2 * moment.diagonal().mean()
    missing = (weights * targets).T @ rows / weights.sum() - prior @ moment
    expected = prior + torch.linalg.solve(moment + ridge * torch.eye(32), missing.T).T
    torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)


def test_raw_tokens_keep_their_width_within_a_budget():
    """Nothing tells what a narrower output without a norm would lose."""
    pruner = SNPPruner.from_pretrained(build_source("CLIPVisionModel"))
    assert describe(pruner.model).streams[0].is_output
    model = pruner.prune(SNPConfig(target_flops=0.6), calibration_dataset=IMAGES)
    assert model.config.hidden_size == 32


def test_a_classifier_reads_the_stream_without_a_norm():
    """Computed anew from the last hidden state."""
    pruner = SNPPruner.from_pretrained(build_source("CLIPForImageClassification"))
    dense = pruner.model
    assert not describe(dense).streams[0].norms[-1].normalizes
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    model = pruner.prune(SNPConfig(method="snp-refit", hidden_sparsity=0.25))
    with torch.inference_mode():
        output = model(IMAGES, output_hidden_states=True)
        pooled = output.hidden_states[-1][:, 1:].mean(dim=1)
        torch.testing.assert_close(output.logits, F.linear(pooled, model.classifier.weight, model.classifier.bias))


def test_other_classes_are_refused_with_the_nearest():
    config = CLIPTextConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ValueError, match=r"CLIPTextModel cannot be pruned: .*CLIPVisionModelWithProjection"):
        convert(CLIPTextModel(config))

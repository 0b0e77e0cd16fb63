"""What is special in Swin V2; the rest is in the contract of all families."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.families import check_supported, convert, family_of_source
from optimum_snp.models import SNPSwinConfig
from optimum_snp.reconstruction.post_norm import target_before_norm
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_macs
from tests.families.cases import IMAGES


CLASSIFIER = "Swinv2ForImageClassification"
CLASSES = ("Swinv2Model", CLASSIFIER, "Swinv2Backbone")


def build(class_name=CLASSIFIER, **options):
    return family_of_source(class_name).example(class_name, **options)


@pytest.fixture(scope="module")
def calibrated():
    """Two stages of one block each, of 1 and 2 heads; not to be changed."""
    pruner = SNPPruner.from_pretrained(build(depths=[1, 1]))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    return pruner


def assert_same_function(source, size):
    """All outputs, with all that can be asked for, are those of the source; in float64, but for the softmax."""
    source = source.double()
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double()
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        expected, actual = source(images, **options), convert(source)(images, **options)
    assert list(actual) == list(expected)
    for name in expected:
        pair = (expected[name], actual[name])
        for one, other in zip(*pair, strict=True) if isinstance(pair[0], tuple) else [pair]:
            torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"window_size": 4}, (33, 50)),
        ({"window_size": 16}, (32, 32)),  # no map is as large
        ({"image_size": [32, 20]}, (32, 20)),
        ({"image_size": 28}, (28, 28)),  # 7 x 7 tokens, then 4 x 4 in windows of 3
        (
            {"patch_size": 2, "depths": [1, 2, 1], "num_heads": [1, 3, 4], "pretrained_window_sizes": [4, 2, 0]},
            (8, 8),
        ),
        ({"layer_norm_eps": 1e-2, "hidden_act": "relu"}, (32, 32)),
    ],
    ids=str,
)
def test_same_function(options, size):
    for class_name in CLASSES:
        assert_same_function(build(class_name, **options), size)


def test_scores_grow_no_further_than_there():
    source = build()
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if name.endswith("logit_scale"):
                parameter.copy_(torch.linspace(3.0, 6.0, len(parameter)).view_as(parameter))  # e^6 is beyond 100
    assert_same_function(source, (32, 32))


def test_frozen_biases_stay_frozen():
    source = build()
    source.swinv2.encoder.layers[0].requires_grad_(False)
    trained = {name: weight.requires_grad for name, weight in convert(source).named_parameters()}
    table = "blocks.0.attention.relative_position_bias_table"
    assert not trained[f"snp_swin.stages.0.{table}"] and trained[f"snp_swin.stages.1.{table}"]


@pytest.mark.parametrize("head", [0, 1])
def test_a_head_attends_as_before_when_the_other_is_gone(calibrated, head):
    """Computed from the weights of transformers: cosines, the length of the head, and the biases of its network."""
    source = build(depths=[1, 1])
    attention = source.swinv2.encoder.layers[1].blocks[0].attention.self
    read = []
    attention.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))
    pruner = calibrated.copy()
    plan = pruner.plan(SNPConfig(method="snp", head_sparsity=[0.0, 0.5]))
    for part in (plan.blocks[1].heads, plan.heads[1]):
        part[:] = [head]
    with torch.inference_mode():
        source(IMAGES)
        found = pruner.prune(plan)(IMAGES, output_attentions=True).attentions[1][:, 0]
        (windows,) = read
        rows = slice(12 * head, 12 * head + 12)
        query = windows @ attention.query.weight[rows].T + attention.query.bias[rows]
        key = windows @ attention.key.weight[rows].T
        cosines = query @ key.mT / query.norm(dim=-1).unsqueeze(2) / key.norm(dim=-1).clamp_min(1e-12).unsqueeze(1)
        biases = attention.continuous_position_bias_mlp(attention.relative_coords_table)[0, ..., head].sigmoid() * 16
        places = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        offsets = (places[:, None] - places + 2).unbind(-1)
        expected = (cosines * attention.logit_scale[head].exp() + biases[offsets]).softmax(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_scores_are_of_queries_and_keys_of_one_length(calibrated):
    for block, sums in zip(describe(calibrated.model).blocks, calibrated.statistics.blocks, strict=True):
        squares = sums["query_moment"].diagonal(dim1=1, dim2=2).sum(dim=1) / sums["query_num_tokens"]
        scales = calibrated.model.get_submodule(block.score_inputs[0]).logit_scale.exp().square().flatten()
        torch.testing.assert_close(squares, scales.double().detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "shares", [{"qk_sparsity": 0.5}, {"qk_sparsity": [[0.0], [0.1]]}, {"hidden_sparsity": [0.0, 0.5]}]
)
def test_what_stays_whole_is_refused_with_the_reason(calibrated, shares):
    (name,) = shares
    reason = {
        "qk_sparsity": "divides each of them by its length",
        "hidden_sparsity": "norms write its residual streams",
    }
    with pytest.raises(ValueError, match=rf"{name} is .*{reason[name]}.* v_sparsity, mlp_sparsity, head_sparsity and"):
        calibrated.plan(SNPConfig(**shares))


@pytest.mark.parametrize("part", ["query_key", "width"])
def test_plans_that_prune_what_stays_whole_are_refused(calibrated, part):
    values = calibrated.plan(SNPConfig(method="snp", v_sparsity=0.5)).to_dict()
    if part == "width":
        values["widths"][1] |= {"after": 20, "kept": list(range(20))}
    else:
        values["blocks"][1]["after"]["qk_head_dim"] = 4
        values["blocks"][1]["query_key"] = [[0, 1, 2, 3]] * 2
    with pytest.raises(ValueError, match=r"The plan removes what .*_sparsity is for, but the .* stay whole"):
        calibrated.copy().prune(PruningPlan.from_dict(values))


def test_a_budget_tells_how_far_it_gets(calibrated):
    least = calibrated.plan(SNPConfig(method="snp", v_sparsity=0.99, mlp_sparsity=0.99)).macs_after
    share = math.ceil(10_000 * least / count_macs(calibrated.model)) / 10_000
    config = SNPConfig(target_flops=0.1, minimum_v_head_dim=1, minimum_intermediate_size=1)
    with pytest.raises(
        ValueError,
        match=f"least sizes allowed leave {share}.* qk_sparsity and hidden_sparsity .* head_sparsity='auto'",
    ):
        calibrated.plan(config)


def test_sources_that_cannot_be_converted_are_refused():
    with pytest.raises(ValueError, match=r"use_absolute_embeddings is True, .* Set it to False"):
        convert(build("Swinv2Model", use_absolute_embeddings=True))
    with pytest.raises(ValueError, match=r"pretrained_window_sizes is \[1, 0\], .* less 1"):
        convert(build("Swinv2Model", pretrained_window_sizes=[1, 0]))
    with pytest.raises(ValueError, match=r"Swinv2ForMaskedImageModeling cannot .* by its name is Swinv2ForImageClass"):
        check_supported("Swinv2ForMaskedImageModeling")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"swin_version": 3}, "swin_version must be 1 or 2, got 3"),
        ({"window_sizes": [7, 7, 7, 7]}, "window_sizes is for swin_version 2"),
        ({"swin_version": 2, "window_sizes": [7, 7]}, "stage_window_sizes has 2 stages"),
        ({"swin_version": 2, "window_sizes": [7, 7, 7, 0]}, r"window_sizes\[3\] must be a positive integer"),
        ({"swin_version": 2, "window_sizes": [7, 7, 7, 3]}, r"block_configs\[3\]\[1\].shift_size must .* 2, got 3"),
    ],
    ids=str,
)
def test_configs_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SNPSwinConfig(**fields)


def test_the_target_before_a_norm_makes_up_for_what_is_missing():
    generator = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(64)
    with torch.no_grad():
        norm.weight.copy_(1 + torch.rand(64, generator=generator))
    output = 3 * torch.randn(2, 5, 64, generator=generator)
    target, weights = target_before_norm(norm, output, norm(output))
    torch.testing.assert_close(target, output)
    torch.testing.assert_close(weights, 1 / output.var(dim=-1, unbiased=False), rtol=1e-4, atol=1e-4)
    wanted = norm(output) + 0.1 * torch.randn(2, 5, 64, generator=generator)
    target, _ = target_before_norm(norm, output, wanted)
    assert (norm(target) - wanted).square().mean() < 0.4 * (norm(output) - wanted).square().mean()


def test_reconstruction_follows_the_dense_streams():
    pruner = SNPPruner.from_pretrained(build("Swinv2Model"))
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(8))  # of fewer the ridge makes less
    pruner.calibrate(images, num_samples=len(images))
    errors = {}
    with torch.inference_mode():
        dense = pruner.model(images).last_hidden_state
        for reconstruction in (False, True):
            config = SNPConfig(method="snp-refit", v_sparsity=0.5, mlp_sparsity=0.5, reconstruction=reconstruction)
            pruned = pruner.copy().prune(config)
            errors[reconstruction] = F.mse_loss(pruned(images).last_hidden_state, dense)
    assert errors[True] < 0.9 * errors[False]

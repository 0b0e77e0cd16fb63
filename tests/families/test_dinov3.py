"""What is special in DINOv3: rotary positions, whose pairs of neurons stay or go together, and its outliers."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration.fingerprint import model_fingerprint
from optimum_snp.calibration.moments import RIDGE
from optimum_snp.families import check_supported, convert
from optimum_snp.losses import by_rank
from optimum_snp.methods import METHODS, method_of
from optimum_snp.models import SNPViTConfig, SNPViTModel
from optimum_snp.plan import PruningPlan
from optimum_snp.reshaping.refit import refit_pairs
from optimum_snp.scoring import pair_gram, pair_target
from optimum_snp.structure import block_sizes, describe
from tests.families.cases import IMAGES, Case
from tests.helpers import build_source
from tests.masked import assert_same_outputs, masked


LEVEL = {"reconstruction": False}  # the closed form alone


@pytest.fixture(scope="module")
def calibrated():
    return Case("DINOv3ViTModel").calibrated


def scores_of_one_content(model, block, query, key):
    """The scores `[heads, patches, patches]` of a block whose patches all have the same query, and the same key."""
    attention = model.base_model.layers[block].attention
    images = torch.zeros(1, 3, 40, 24)  # 5 x 3 patches
    cos, sin = (turns[:, attention.rotary_pairs] for turns in model.base_model.rotary_positions(images))
    turned = [
        rotation(states.flatten().expand(1, len(cos), -1), cos, sin)[0].unflatten(-1, states.shape).transpose(0, 1)
        for rotation, states in ((attention.query_rotation, query), (attention.key_rotation, key))
    ]
    return turned[0] @ turned[1].mT


def expected_scores(source, pairs, query, key):
    """The same from the formula: every pair turns by its own frequency times the distance of two patches."""
    config = source.config
    num_halves = config.hidden_size // config.num_attention_heads // 4
    frequencies = config.rope_theta ** -(torch.arange(num_halves) / num_halves)
    places = [2 * (torch.arange(size) + 0.5) / size - 1 for size in (5, 3)]
    places = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).flatten(0, 1)
    distances = places.unsqueeze(1) - places  # [patches, patches, 2]
    turns = torch.cat([distances[..., axis, None] * frequencies for axis in range(2)], dim=-1)  # of all pairs
    query, key = (torch.complex(*states.chunk(2, dim=-1)) for states in (query, key))
    products = torch.exp(2j * torch.pi * turns)[..., pairs] * (query * key.conj())  # [patches, patches, heads, pairs]
    return products.sum(dim=-1).real.permute(2, 0, 1), distances


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("method", METHODS)
def test_scores_depend_on_relative_positions_as_in_the_dense_model(method, share, calibrated):
    source = Case("DINOv3ViTModel").source()
    pruner = calibrated.copy()
    model = pruner.prune(SNPConfig(method=method, qk_sparsity=share, **LEVEL))
    for index, plan in enumerate(pruner.pruning_plan.blocks):
        num_pairs = plan.after["qk_head_dim"] // 2
        assert num_pairs == (6 if share == 0 else 3)
        pairs = torch.tensor([kept[:num_pairs] for kept in plan.query_key])
        assert torch.equal(model.layers[index].attention.rotary_pairs, pairs)
        query, key = torch.randn(2, 4, 2 * num_pairs, generator=torch.Generator().manual_seed(index))
        found = scores_of_one_content(model, index, query, key)
        expected, distances = expected_scores(source, pairs, query, key)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        # The same at the same distance, and not the same at all distances.
        for distance in distances.flatten(0, 1).unique(dim=0):
            of_distance = found[:, (distances - distance).abs().amax(dim=-1) < 1e-4]
            assert (of_distance.amax(dim=1) - of_distance.amin(dim=1)).max() < 1e-4
        assert (found.flatten(1).amax(dim=1) - found.flatten(1).amin(dim=1)).min() > 0.1


def test_class_token_and_registers_are_not_turned(calibrated):
    attention = calibrated.model.layers[0].attention
    states = torch.randn(1, 3 + 16, 48)
    cos, sin = (turns[:, attention.rotary_pairs] for turns in calibrated.model.rotary_positions(IMAGES[:1]))
    turned = attention.query_rotation(states, cos, sin)
    assert torch.equal(turned[:, :3], states[:, :3])
    assert (turned[:, 3:] - states[:, 3:]).abs().amax(dim=-1).min() > 0.1


def design(query, key):
    """The scores of every pair, as it is and turned by a quarter, for all queries and keys, `[scores, d]`."""
    columns = []
    half = query.shape[1] // 2
    for pair in range(half):
        first, second = query[:, pair, None], query[:, pair + half, None]
        columns.append(first * key[:, pair] + second * key[:, pair + half])
        columns.append(first * key[:, pair + half] - second * key[:, pair])
    return torch.stack([column.flatten() for column in columns], dim=1)


@pytest.fixture
def queries_and_keys():
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
    return torch.randn(2, 30, 8, generator=generator, dtype=torch.float64) @ mixing


def test_the_refit_of_pairs_is_least_squares_on_all_scores(queries_and_keys):
    query, key = queries_and_keys
    columns, kept = design(query, key), [0, 3, 4, 7]
    gram = columns.T @ columns
    torch.testing.assert_close(pair_gram(query.T @ query, key.T @ key), gram)
    torch.testing.assert_close(columns @ pair_target(8).squeeze(0), (query @ key.T).flatten())
    basis = columns[:, [0, 1, 6, 7]]
    prior = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    pull = RIDGE * (basis.T @ basis).diagonal().mean() * torch.eye(4, dtype=torch.float64)
    numbers = torch.linalg.solve(basis.T @ basis + pull, basis.T @ (query @ key.T).flatten() + pull @ prior)
    mixing = refit_pairs(query.T @ query, key.T @ key, kept)
    torch.testing.assert_close((query[:, kept] @ mixing @ key[:, kept].T).flatten(), basis @ numbers)


def test_pairs_go_in_the_order_of_least_loss(calibrated):
    """The three of six pairs that stay lose at most a little more than the best three of all, and less than most."""
    plan = calibrated.plan(SNPConfig(qk_sparsity=0.5))
    for sums, block in zip(calibrated.statistics.blocks, plan.blocks, strict=True):
        for query_moment, key_moment, kept in zip(
            sums["query_moment"], sums["key_moment"], block.query_key, strict=True
        ):
            errors = {
                firsts: score_error(query_moment, key_moment, [*firsts, *(pair + 6 for pair in firsts)])
                for firsts in itertools.combinations(range(6), 3)
            }
            found = errors[tuple(kept[:3])]
            assert found <= 1.3 * min(errors.values())
            assert found <= sorted(errors.values())[4]


def score_error(query_moment, key_moment, kept):
    change = -torch.eye(len(query_moment), dtype=torch.float64)
    change[torch.tensor(kept).unsqueeze(1), kept] += refit_pairs(query_moment, key_moment, kept)
    return float((change.T @ query_moment @ change * key_moment).sum())


def test_moments_are_those_of_turned_queries(calibrated):
    """By hooks on a copy: of what the scores are made of, keys less their mean over the tokens."""
    model, sums = copy.deepcopy(calibrated.model), calibrated.statistics.blocks[1]
    found = {}
    attention = model.layers[1].attention
    for name in ("query_rotation", "key_rotation"):
        getattr(attention, name).register_forward_hook(lambda _m, _i, output, name=name: found.update({name: output}))
    with torch.inference_mode():
        attentions = model(IMAGES, output_attentions=True).attentions[1]
    query, key = (states.double().unflatten(-1, (4, 12)).transpose(1, 2) for states in found.values())
    torch.testing.assert_close((query @ key.mT * 12**-0.5).softmax(dim=-1), attentions.double(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sums["query_moment"], (query.mT @ query).sum(dim=0), atol=1e-3, rtol=1e-4)
    centred = key - key.mean(dim=2, keepdim=True)
    torch.testing.assert_close(sums["key_moment"], (centred.mT @ centred).sum(dim=0), atol=1e-3, rtol=1e-4)


def test_a_second_step_keeps_pairs_of_the_first(calibrated):
    first = calibrated.copy().prune(SNPConfig(method="snp", qk_sparsity=0.3, head_sparsity=0.4))
    pruner = SNPPruner.from_pretrained(first)
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    plan = pruner.plan(SNPConfig(method="snp", qk_sparsity=0.5))
    second = method_of(plan.config).reshape(first, plan)
    for before, after, block in zip(first.layers, second.layers, plan.blocks, strict=True):
        kept = torch.tensor([neurons[: len(neurons) // 2] for neurons in block.query_key])
        expected = before.attention.rotary_pairs.gather(1, kept)
        assert torch.equal(after.attention.rotary_pairs, expected)
    with torch.inference_mode():
        expected = masked(copy.deepcopy(first), plan)(IMAGES)
        assert_same_outputs(second(IMAGES), expected, plan, first)


def test_losses_are_of_even_sizes_and_fall(calibrated):
    for method in METHODS:
        config = SNPConfig(method=method, target_flops=0.5)
        scores = method_of(config).score(calibrated.model, calibrated.statistics, config)
        losses = method_of(config).loss(calibrated.model, calibrated.statistics, scores)
        for curve in losses.query_key:
            assert torch.isinf(curve[1::2]).all()
            assert torch.isfinite(curve[::2]).all()
            assert (curve[::2].diff() <= 0).all() and curve[-1] == 0 < curve[0]
        for of_neurons in scores.query_key:
            assert torch.equal(*of_neurons.chunk(2, dim=1))
            assert len(by_rank(of_neurons)) == 48


@pytest.mark.parametrize("minimum", [1, 3, 12])
def test_a_budget_keeps_even_sizes_from_the_least_on(minimum, calibrated):
    plan = calibrated.plan(SNPConfig(target_flops=0.6, round_to=1, minimum_qk_head_dim=minimum))
    sizes = [block.after["qk_head_dim"] for block in plan.blocks]
    assert all(size % 2 == 0 and size >= minimum for size in sizes)


def test_odd_sizes_are_refused():
    block = {"num_attention_heads": 2, "qk_head_dim": 5, "v_head_dim": 5, "intermediate_size": 8}
    options = {"hidden_size": 32, "num_attention_heads": 2, "block_configs": [{**block, "attention_scale": 0.25}]}
    with pytest.raises(ValueError, match=r"qk_head_dim is 5, but rotary positions .* even number up to 16"):
        SNPViTConfig(**options, rope_theta=100.0)
    with pytest.raises(ValueError, match=r"qk_head_dim is 5, .* even number up to 4"):
        SNPViTConfig(**options, rope_theta=100.0, rope_head_dim=4)
    with pytest.raises(ValueError, match=r"rope_head_dim is 10, .* multiple of 4"):
        SNPViTConfig(**options, rope_theta=100.0, rope_head_dim=10)
    with pytest.raises(ValueError, match="rope_theta must be a positive number, got -1"):
        SNPViTConfig(**options, rope_theta=-1)
    with pytest.raises(ValueError, match="rope_head_dim is 8, but there is no rope_theta"):
        SNPViTConfig(**options, rope_head_dim=8)
    with pytest.raises(ValueError, match="use_position_embeddings must be True or False, got 1"):
        SNPViTConfig(**options, use_position_embeddings=1)


def test_a_plan_that_parts_a_pair_is_refused(calibrated):
    plan = calibrated.plan(SNPConfig(method="snp", qk_sparsity=0.5))
    plan.blocks[1] = replace(plan.blocks[1], query_key=[[0, 1, 2, 3, 4, 5]] * 4)
    plan = PruningPlan.from_dict(plan.to_dict())
    with pytest.raises(ValueError, match=r"blocks\[1\].query_key keeps \[0, 1, 2, 3, 4, 5\].*pairs, 6 apart"):
        calibrated.copy().prune(plan)


def test_pairs_are_part_of_the_fingerprint(calibrated):
    model = copy.deepcopy(calibrated.model)
    before = model_fingerprint(model)
    assert before == calibrated.statistics.fingerprint
    attention = model.layers[2].attention
    attention.rotary_pairs.copy_(attention.rotary_pairs.flip(1))
    assert model_fingerprint(model) != before


def test_the_periods_of_positions_are_part_of_the_fingerprint(calibrated):
    model = copy.deepcopy(calibrated.model)
    before = model_fingerprint(model)
    model.config.rope_theta *= 2
    assert model_fingerprint(model) != before


def test_pairs_stay_integers_in_half_precision(tmp_path, calibrated):
    pruner = SNPPruner.from_pretrained(convert(Case("DINOv3ViTModel").source()).bfloat16())
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    model = pruner.prune(SNPConfig(qk_sparsity=0.5, mlp_sparsity=0.3, **LEVEL))
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    loaded = SNPViTModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    for one, other in zip(loaded.layers, model.layers, strict=True):
        assert one.attention.rotary_pairs.dtype == torch.long
        assert torch.equal(one.attention.rotary_pairs, other.attention.rotary_pairs)
    with torch.inference_mode():
        expected, found = model(IMAGES.bfloat16())[0], loaded(IMAGES.bfloat16())[0]
        assert torch.equal(found, expected)
        full = copy.deepcopy(model).float()(IMAGES)[0]
    assert (found.float() - full).norm() < 0.05 * full.norm()


def test_positions_stay_in_training():
    """Transformers shifts and stretches them at random, which would undo what is distilled on still ones."""
    model = convert(build_source("DINOv3ViTModel", pos_embed_rescale=2.0, pos_embed_shift=0.5)).train()
    assert all(map(torch.equal, model.rotary_positions(IMAGES), model.eval().rotary_positions(IMAGES)))


def with_outliers(strength):
    """A source in which two channels of the stream, and one neuron of every MLP, are so many times as large."""
    source = build_source("DINOv3ViTModel")
    with torch.no_grad():
        source.embeddings.patch_embeddings.weight[[5, 29]] *= strength
        source.embeddings.cls_token[..., [5, 29]] *= strength
        for layer in source.model.layer:
            layer.mlp.up_proj.weight[7] *= strength
            layer.mlp.up_proj.bias[7] *= strength
            layer.mlp.down_proj.weight[:, 7] /= strength
    return source


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_the_closed_form_holds_with_outliers(method):
    """A few channels with most of the variance cost the fits of the others little: less is lost than without a fit."""
    images = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    lost = {}
    for strength in (1.0, 1000.0):
        pruner = SNPPruner.from_pretrained(with_outliers(strength))
        pruner.calibrate(images, num_samples=128)
        with torch.inference_mode():
            dense = pruner.model(IMAGES).last_hidden_state
            for name in ("snp", method):
                config = SNPConfig(method=name, qk_sparsity=0.25, v_sparsity=0.25, mlp_sparsity=0.25, **LEVEL)
                error = pruner.copy().prune(config)(IMAGES).last_hidden_state - dense
                lost[strength, name] = float(error.norm() / (dense - dense.mean(dim=(0, 1))).norm())
    assert lost[1000.0, method] < 0.6 * lost[1000.0, "snp"], lost
    assert lost[1000.0, method] < 1.5 * lost[1.0, method], lost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reshape_hidden_states": False}, "reshape_hidden_states is False: .* Set it to True"),
        ({"return_class_token": True}, "return_class_token is True, .* prune a DINOv3ViTModel"),
        ({"apply_layernorm": False}, "apply_layernorm is False, .*leave 'stage3' out of out_features"),
    ],
)
def test_backbones_with_other_outputs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        convert(build_source("DINOv3ViTBackbone", **options))


def test_the_convolutional_one_is_refused():
    with pytest.raises(ValueError, match=r"DINOv3ConvNextModel cannot be pruned: .*DINOv3ViTModel"):
        check_supported("DINOv3ConvNextModel")


def test_images_of_several_shapes_need_no_embeddings():
    config = Case("DINOv3ViTModel").source(image_size=[32, 48], patch_size=[8, 4])
    model = convert(config)
    assert [block["qk_head_dim"] for block in block_sizes(model.config)] == [12, 12, 12]
    assert describe(model).blocks[0].map_tokens == 4 * 12 + 3
    with torch.inference_mode():
        for size in ((32, 48), (64, 16)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(model(images)[0], config(images)[0], atol=1e-5, rtol=1e-5)

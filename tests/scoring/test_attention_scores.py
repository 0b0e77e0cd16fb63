"""SNP's query/key scores against a full SVD of the attention scores and explicit cosines."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_snp import SNPPruner
from optimum_snp.calibration.attention_statistics import attention_score_statistics
from optimum_snp.families import convert
from optimum_snp.scoring.attention_scores import query_key_scores
from tests.helpers import build_source
from tests.swin_reference import swin_reference


def brute_force(query, key, gamma, weighted):
    """The definition, by numpy, for one head: `[maps, tokens, d]` -> `[d]`, with all `N x N` matrices built."""
    query, key = np.asarray(query, dtype=np.float64), np.asarray(key, dtype=np.float64)
    num_images, _, head_dim = query.shape
    total = np.zeros(head_dim)
    for image in range(num_images):
        left, values, right = np.linalg.svd(query[image] @ key[image].T)
        for neuron in range(head_dim):
            pair = np.outer(query[image][:, neuron], key[image][:, neuron])
            # Beyond the rank, but for rounding, there are no directions.
            for direction in range(min(gamma, (values > 1e-5 * values[0]).sum())):
                component = values[direction] * np.outer(left[:, direction], right[direction])
                cosine = (component * pair).sum() / (np.linalg.norm(component) * np.linalg.norm(pair))
                total[neuron] += abs(cosine) * (values[direction] if weighted else 1)
    return total / num_images


def scores_of(query, key, gamma, weighting):
    statistics = attention_score_statistics(query, key)
    return query_key_scores(statistics, gamma, weighting)


@pytest.mark.parametrize("weighting", ["uniform", "energy"])
@pytest.mark.parametrize("gamma", [1, 3, 8])
def test_random_activations(gamma, weighting):
    query, key = torch.randn(2, 5, 3, 21, 8).unbind(0)  # [images, heads, tokens, d]
    scores = scores_of(query, key, gamma, weighting)
    for head in range(3):
        expected = brute_force(query[:, head], key[:, head], gamma, weighting == "energy")
        np.testing.assert_allclose(scores[head], expected, rtol=1e-6)


@given(
    tokens=st.integers(2, 12),
    head_dim=st.integers(1, 9),
    num_images=st.integers(1, 3),
    seed=st.integers(0, 100),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_sizes(tokens, head_dim, num_images, seed, data):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(num_images, 1, tokens, head_dim, generator=generator, dtype=torch.float64)
    key = torch.randn(num_images, 1, tokens, head_dim, generator=generator, dtype=torch.float64)
    gamma = data.draw(st.integers(1, min(tokens, head_dim)))
    expected = brute_force(query[:, 0], key[:, 0], gamma, weighted=True)
    np.testing.assert_allclose(scores_of(query, key, gamma, "energy")[0], expected, rtol=1e-4)


def test_trained_model(trained, digits):
    """On real activations, rank-deficient as they may be, to the 1e-4 that the issue asks for."""
    images = digits[0][:6]
    model = convert(trained)
    captured = {}
    for index, layer in enumerate(model.base_model.layers):
        for name in ("q_proj", "k_proj"):
            getattr(layer.attention, name).register_forward_hook(
                lambda _module, _inputs, output, key=(index, name): captured.__setitem__(key, output.detach())
            )
    model(images)
    pruner = SNPPruner.from_pretrained(trained)
    statistics = pruner.calibrate(images, num_samples=6, batch_size=4)
    for index in range(4):
        query = captured[index, "q_proj"].view(6, 17, 3, 16)
        key = captured[index, "k_proj"].view(6, 17, 3, 16)
        for gamma in (2, 16):
            for weighting in ("uniform", "energy"):
                scores = query_key_scores(statistics.blocks[index], gamma, weighting)
                for head in range(3):
                    expected = brute_force(query[:, :, head], key[:, :, head], gamma, weighting == "energy")
                    np.testing.assert_allclose(scores[head], expected, rtol=1e-4)


@pytest.mark.parametrize("gamma", [1, 12])
@pytest.mark.parametrize("size", [32, 24, 20])
@pytest.mark.parametrize("class_name", ["SwinForImageClassification", "SwinBackbone"])
def test_every_window_is_a_map(class_name, size, gamma):
    """Shifted and padded windows of images of 8, 6 and 5 x 5 patches; the padding has queries and keys as well."""
    source = build_source(class_name, image_size=size)
    images = torch.randn(2, 3, size, size)
    blocks = swin_reference(source, images).blocks
    statistics = SNPPruner.from_pretrained(source).calibrate(images, num_samples=2, batch_size=1, moments=False)
    num_windows = {32: [9, 9, 4, 4, 4], 24: [4, 4, 1, 1, 1], 20: [4, 4, 1, 1, 1]}[size]
    assert [sums["num_maps"].item() for sums in statistics.blocks] == [2 * count for count in num_windows]
    for sums, block in zip(statistics.blocks, blocks, strict=True):
        for weighting in ("uniform", "energy"):
            scores = query_key_scores(sums, gamma, weighting)
            for head, (query, key) in enumerate(zip(block.query, block.key, strict=True)):
                expected = brute_force(query, key, gamma, weighting == "energy")
                np.testing.assert_allclose(scores[head], expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_all_directions_is_none_and_the_full_energy():
    query, key = torch.randn(2, 4, 2, 15, 6).unbind(0)
    for weighting in ("uniform", "energy"):
        everything = scores_of(query, key, None, weighting)
        torch.testing.assert_close(everything, scores_of(query, key, 6, weighting))
        torch.testing.assert_close(everything, scores_of(query, key, 1.0, weighting))


def test_energy_share_takes_the_smallest_sufficient_number_of_directions():
    statistics = {
        "cosines": torch.eye(4, dtype=torch.float64).unsqueeze(0),  # neuron i is direction i
        "energies": torch.tensor([[60.0, 25.0, 10.0, 5.0]], dtype=torch.float64),
        "num_maps": torch.tensor(1.0, dtype=torch.float64),
    }
    for share, directions in ((0.1, 1), (0.6, 1), (0.61, 2), (0.85, 2), (0.9, 3), (1.0, 4)):
        assert query_key_scores(statistics, share, "uniform")[0].tolist() == [1] * directions + [0] * (4 - directions)


def test_dead_neurons_score_nothing():
    query, key = torch.randn(2, 3, 2, 15, 6).unbind(0)
    query[:, :, :, 2] = 0
    scores = scores_of(query, key, None, "uniform")
    assert scores.isfinite().all()
    assert (scores[:, 2] == 0).all()
    assert (scores[:, [0, 1, 3, 4, 5]] > 0).all()


def test_statistics_add_up_over_images():
    query, key = torch.randn(2, 5, 2, 15, 6).unbind(0)
    whole = attention_score_statistics(query, key)
    first, rest = attention_score_statistics(query[:2], key[:2]), attention_score_statistics(query[2:], key[2:])
    for name, tensor in whole.items():
        torch.testing.assert_close(first[name] + rest[name], tensor)
    assert whole["num_maps"] == 5

"""Baselines of merging: their groups against loops by hand, and that the benchmark has a row of every way."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F


@pytest.fixture(scope="module")
def baselines():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("scripts")
        yield pytest.importorskip("baselines.tome"), pytest.importorskip("baselines.pitome")


KEYS = torch.randn(2, 13, 8, generator=torch.Generator().manual_seed(3))
STATES = torch.randn(2, 13, 6, generator=torch.Generator().manual_seed(4))
SIZES = torch.tensor([[1.0] + [2.0] * 12, [1.0] + [1.0, 3.0] * 6])


def merged_by_hand(state, sizes, groups):
    """The mean of every group, by its first member's number."""
    return {
        tuple(group): sum(state[token] * sizes[token] for token in group) / sum(sizes[token] for token in group)
        for group in groups
    }


def groups_of(pairs, num_tokens):
    """Tokens that pairs `(token, into)` leave together."""
    groups = {token: [token] for token in range(num_tokens)}
    for token, into in pairs:
        groups[into] += groups.pop(token)
    return [sorted(group) for group in groups.values()]


def check(module, pairs_of):
    states, sizes, places = module(STATES, KEYS, SIZES)
    directions = F.normalize(KEYS.unflatten(-1, (2, 4)).mean(2), dim=-1)
    for image in range(2):
        groups = groups_of(pairs_of(directions[image]), 13)
        assert len(groups) == states.shape[1] == 10
        for group, mean in merged_by_hand(STATES[image], SIZES[image], groups).items():
            (place,) = {int(places[image, token]) for token in group}
            torch.testing.assert_close(states[image, place], mean)
            assert sizes[image, place] == sum(SIZES[image, token] for token in group)


def test_tome_by_hand(baselines):
    def pairs_of(directions):
        best = []
        for token in range(1, 13, 2):
            into = max(range(2, 13, 2), key=lambda other: float(directions[token] @ directions[other]))
            best.append((float(directions[token] @ directions[into]), token, into))
        return [(token, into) for _, token, into in sorted(best, reverse=True)[:3]]

    check(baselines[0].ToMe(3, 1, 2), pairs_of)


def test_pitome_by_hand(baselines):
    def pairs_of(directions):
        patches = range(1, 13)
        energy = {
            token: sum(float(F.elu(directions[token] @ directions[other] - 0.4)) for other in patches)
            for token in patches
        }
        ranked = sorted(patches, key=energy.get, reverse=True)[:6]
        return [
            (token, max(ranked[1::2], key=lambda other: float(directions[token] @ directions[other])))
            for token in ranked[::2]
        ]

    check(baselines[1].PiToMe(3, 1, 2, 0.4), pairs_of)


@given(st.integers(8, 300), st.integers(1, 24), st.data())
@settings(deadline=None)
def test_counts_sum_up(baselines, num_patches, num_blocks, data):
    total = data.draw(st.integers(0, num_patches - 1))
    for baseline in baselines:
        merged = baseline.counts(num_patches, num_blocks, total)
        if merged is not None:
            assert sum(merged) == total
            left = num_patches
            for count in merged:
                assert 0 <= 2 * count <= left
                left -= count


@pytest.mark.slow
def test_every_way_has_its_row(baselines, ground, tmp_path):
    script = pytest.importorskip("benchmark_tokens")
    arguments = ["--ground", ground[0], "--tasks", "digits", "--budgets", 0.7, "--images", 8, "--seeds", 2]
    arguments += ["--output", tmp_path / "results", "--threads", 1]
    assert script.main([str(argument) for argument in arguments]) == 0
    dense, *rows = json.loads((tmp_path / "results" / "tokens.json").read_text())["rows"]
    assert dense["kl"] == 0
    assert [row["way"] for row in rows] == ["neurons", "tokens", "auto", "ToMe", "PiToMe", "neurons", "tokens", "auto"]
    for row in rows:
        assert 0.4 < row["flops"] <= 0.7
        assert bool(sum(row["merged_tokens"])) or row["way"] in ("neurons", "auto")
        assert row["kl"] > 0
    table = (tmp_path / "results" / "tokens.md").read_text()
    assert table.count("\n| 70% | ") == 5

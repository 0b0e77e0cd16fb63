"""Scores of blocks, against the hidden states of the source model."""

import pytest
import torch

from optimum_snp.calibration import CalibrationStatistics, collect_statistics
from optimum_snp.families import convert
from optimum_snp.scoring import block_scores
from tests.helpers import build_source


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "DeiTForImageClassification"])
def test_is_the_change_of_the_hidden_states(class_name, pixel_values):
    source = build_source(class_name)
    statistics = collect_statistics(convert(source), pixel_values, num_samples=6, batch_size=4, moments=False)
    with torch.no_grad():
        states = source(pixel_values, output_hidden_states=True).hidden_states
    for score, before, after in zip(block_scores(statistics), states, states[1:], strict=False):
        change = ((after - before).norm(dim=-1) / before.norm(dim=-1)).square().mean()
        assert score.item() == pytest.approx(change.item(), rel=1e-4)


def test_of_swin(pixel_values):
    source = build_source("SwinForImageClassification")
    statistics = collect_statistics(convert(source), pixel_values, num_samples=6, moments=False)
    changes = []

    def keep(_module, inputs, output):
        before, after = inputs[0], output[0] if isinstance(output, tuple) else output
        changes.append(((after - before).norm(dim=-1) / before.norm(dim=-1)).square().mean())

    for stage in source.base_model.encoder.layers:
        for block in stage.blocks:
            block.register_forward_hook(keep)
    with torch.no_grad():
        source(pixel_values)
    torch.testing.assert_close(block_scores(statistics), torch.stack(changes).double(), rtol=1e-4, atol=0)


def test_a_block_that_adds_nothing_scores_nothing(source, pixel_values):
    layer = source.base_model.layers[1]
    with torch.no_grad():
        for linear in (layer.attention.o_proj, layer.mlp.fc2):
            linear.weight.zero_()
            linear.bias.zero_()
    scores = block_scores(collect_statistics(convert(source), pixel_values, num_samples=6, moments=False))
    assert scores[1] == 0
    assert (scores[[0, 2]] > 0).all()


def test_a_stream_of_zeros_is_no_division_by_zero(source):
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.zero_()
    statistics = collect_statistics(convert(source), torch.zeros(2, 3, 32, 32), num_samples=2, moments=False)
    assert block_scores(statistics).tolist() == [0, 0, 0]


def test_statistics_of_an_earlier_version_are_refused():
    with pytest.raises(ValueError, match="Call calibrate"):
        block_scores(CalibrationStatistics([{"cosines": torch.ones(1, 1, 1)}]))

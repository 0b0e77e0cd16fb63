"""SNPConfig checks what the user asks for, and survives saving."""

import json

import pytest

import optimum_snp
from optimum_snp import SNPConfig
from optimum_snp.presets import PRESETS


@pytest.mark.parametrize("name", ["qk_sparsity", "v_sparsity", "mlp_sparsity", "hidden_sparsity", "head_sparsity"])
@pytest.mark.parametrize("value", [1, 1.0, -0.1, 2, float("nan"), "0.5", True, None])
def test_shares_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be a share in \[0, 1\), got {value!r}"):
        SNPConfig(**{name: value})


def test_share_of_one_block_out_of_range():
    with pytest.raises(ValueError, match=r"mlp_sparsity\[1\] must be a share in \[0, 1\), got 1.5"):
        SNPConfig(mlp_sparsity=[0.5, 1.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of 'snp', 'snp-refit', 'projection', got 'magic'"),
        ({"singular_weighting": "loud"}, "singular_weighting must be one of 'uniform', 'energy', got 'loud'"),
        ({"round_to": 0}, "round_to must be a positive integer, got 0"),
        ({"num_calibration_samples": 0}, "num_calibration_samples must be a positive integer, got 0"),
        ({"num_singular_directions": 0}, "num_singular_directions must be a positive integer, got 0"),
        ({"num_singular_directions": 1.5}, r"num_singular_directions as a share of the energy must be in \(0, 1\]"),
        ({"dropped_blocks": -1}, "dropped_blocks must be .* a list of block numbers or 'auto', got -1"),
        ({"dropped_blocks": 0.5}, "dropped_blocks must be .* a list of block numbers or 'auto', got 0.5"),
        ({"dropped_blocks": True}, "dropped_blocks must be .* a list of block numbers or 'auto', got True"),
        ({"dropped_blocks": [1, "2"]}, "dropped_blocks must hold block numbers from 0 on, got '2'"),
        (
            {"dropped_blocks": [1, 2], "frozen_blocks": [2], "target_flops": 0.5},
            "dropped_blocks and frozen_blocks both name 2",
        ),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": 10**20}, "seed must be at most 4294967295, got 100000000000000000000"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SNPConfig(**options)


def test_unknown_field():
    with pytest.raises(TypeError, match=r"SNPConfig has no field 'sparsity'. Its fields are qk_sparsity, v_sparsity"):
        SNPConfig(sparsity=0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_twelve_blocks(name):
    config = SNPConfig.from_preset(name, seed=7)
    assert len(config.qk_sparsity) == len(config.v_sparsity) == len(config.mlp_sparsity) == 12
    assert config.seed == 7


def test_unknown_preset():
    with pytest.raises(
        ValueError, match=r"There is no preset 'deit-huge'. The presets are deit-tiny-0.6g, deit-small"
    ):
        SNPConfig.from_preset("deit-huge")


def test_presets_are_not_shared():
    SNPConfig.from_preset("deit-tiny-0.6g").qk_sparsity[0] = 0.9
    assert PRESETS["deit-tiny-0.6g"]["qk_sparsity"][0] == 0.390625


def test_round_trip(tmp_path):
    config = SNPConfig(qk_sparsity=[0.5, 0.25], num_singular_directions=None, round_to=8)
    config.save_pretrained(tmp_path / "new")
    assert SNPConfig.from_pretrained(tmp_path / "new") == config


def test_unknown_keys_of_a_file_warn(tmp_path, caplog):
    (tmp_path / "snp_config.json").write_text(json.dumps({"mlp_sparsity": 0.5, "from_the_future": 1}))
    assert SNPConfig.from_pretrained(tmp_path) == SNPConfig(mlp_sparsity=0.5)
    assert "fields that this version does not know: from_the_future" in caplog.text


def test_folder_without_config(tmp_path):
    with pytest.raises(ValueError, match=r"has no snp_config.json"):
        SNPConfig.from_pretrained(tmp_path)


def test_the_saved_config_says_which_version_wrote_it(tmp_path, caplog):
    config = SNPConfig(mlp_sparsity=0.5)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "snp_config.json").read_text())["optimum_snp_version"] == optimum_snp.__version__
    assert SNPConfig.from_pretrained(tmp_path) == config
    assert not caplog.text

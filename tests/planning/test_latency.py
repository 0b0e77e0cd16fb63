"""A share of the latency: planned by the table, kept by the whole model."""

import logging

import pytest
import torch
from huggingface_hub import constants

from optimum_snp import PruningPlan, SNPConfig, SNPPruner, packages
from optimum_snp.benchmarking import backends, block_latency
from optimum_snp.models import SNPViTForImageClassification
from optimum_snp.plan.tokens import falling_counts
from optimum_snp.planning import latency
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_parameters
from tests.helpers import build_source


@pytest.fixture
def stopwatch(monkeypatch, tmp_path):
    """A machine on which a module takes a second per parameter; whole models may be slower, as `slowdown` says."""

    class Machine:
        rounds = 0

        @staticmethod
        def slowdown(share):
            return share

    def of_blocks(modules, *_, **__):
        return {key: float(count_parameters(module)) for key, module in modules.items()}

    def of_models(models, *_, **__):
        Machine.rounds += 1
        dense, pruned = (count_parameters(models[name]) for name in ("dense", "pruned"))
        return {"dense": 1.0, "pruned": Machine.slowdown(pruned / dense)}

    for module, time_in_turn in ((block_latency, of_blocks), (latency, of_models)):
        monkeypatch.setattr(module, "time_in_turn", time_in_turn)
        monkeypatch.setattr(module, "prepare", lambda modules, *_: {key: part for key, (part, _) in modules.items()})
    monkeypatch.setattr(block_latency, "_POINTS", {"eager": (2, 2)})  # parameters are linear in all sizes
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return Machine


@pytest.fixture(params=["ViTForImageClassification", "SwinForImageClassification"])
def calibrated(request, pixel_values):
    pruner = SNPPruner.from_pretrained(build_source(request.param))
    pruner.calibrate(pixel_values, num_samples=6)
    return pruner


@pytest.mark.parametrize("share", [0.75, 0.5, 0.33])
def test_what_was_asked_is_reached(calibrated, stopwatch, share, pixel_values):
    plan = calibrated.plan(SNPConfig(target_latency=share, round_to=1))
    reached = plan.latency["reached"]
    assert 0.93 * share <= reached <= 1.02 * share
    assert plan.latency["asked"] == share
    assert plan.latency["predicted"] == pytest.approx(reached, rel=0.05)
    pruned = calibrated.prune(plan)
    assert count_parameters(pruned) / plan.parameters_before == pytest.approx(reached, rel=0.01)
    assert torch.isfinite(pruned(pixel_values).logits).all()


@pytest.mark.parametrize("token_sparsity", [0.5, [0.25, 0.0, 0.125], "auto"])
def test_tokens_and_neurons_in_one_latency(token_sparsity, stopwatch, monkeypatch, pixel_values):
    """A machine that takes a second per multiply-accumulate of a linear layer, and none for merging."""

    def seconds(module, tokens):
        layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
        return float(tokens * sum(layer.weight.numel() for layer in layers))

    def of_model(model):
        rows = describe(model).linear_rows.items()
        return float(sum(count * model.get_submodule(name).weight.numel() for name, count in rows))

    def of_blocks(modules, *_, **__):
        models = {
            key: module for key, (module, _) in modules.items() if isinstance(module, SNPViTForImageClassification)
        }
        blocks = {key: seconds(module, inputs.shape[1]) for key, (module, inputs) in modules.items()}
        return blocks | {key: of_model(model) for key, model in models.items()}

    monkeypatch.setattr(block_latency, "prepare", lambda modules, *_: modules)
    monkeypatch.setattr(block_latency, "time_in_turn", of_blocks)
    monkeypatch.setattr(
        latency, "time_in_turn", lambda models, *_, **__: {name: of_model(model) for name, model in models.items()}
    )
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification"))
    pruner.calibrate(pixel_values, num_samples=6)
    plan = pruner.plan(SNPConfig(target_latency=0.5, token_sparsity=token_sparsity, round_to=1))
    assert 0.465 <= plan.latency["reached"] <= 0.51
    assert plan.latency["predicted"] == pytest.approx(plan.latency["reached"], rel=0.02)
    merged = [block.merged_tokens for block in plan.blocks]
    if token_sparsity == 0.5:
        assert merged == falling_counts(16, 3, 0.5)
    elif token_sparsity != "auto":
        assert merged == [4, 0, 2]
    pruned = pruner.prune(plan)
    assert [block.merged_tokens for block in describe(pruned).blocks] == merged


@pytest.mark.parametrize("slowdown", [lambda share: share**0.8, lambda share: share**1.3, lambda share: share + 0.05])
def test_a_model_that_is_not_what_the_table_says_is_planned_again(calibrated, stopwatch, slowdown):
    stopwatch.slowdown = staticmethod(slowdown)
    plan = calibrated.plan(SNPConfig(target_latency=0.5, round_to=1))
    assert stopwatch.rounds > 1
    assert 0.45 <= plan.latency["reached"] <= 0.52
    assert abs(plan.latency["predicted"] - plan.latency["reached"]) > 0.03


def test_all_of_the_latency_leaves_the_model_as_it_is(calibrated, stopwatch):
    plan = calibrated.plan(SNPConfig(target_latency=1.0))
    assert plan.macs_after == plan.macs_before
    assert stopwatch.rounds == 1


def test_whole_blocks_and_heads_count(calibrated, stopwatch, caplog):
    whole = {"dropped_blocks": [1], "head_sparsity": 0.5}
    plan = calibrated.plan(SNPConfig(target_latency=0.4, round_to=1, **whole))
    assert plan.blocks[1].after is None
    assert 0.37 <= plan.latency["reached"] <= 0.41
    assert plan.latency["reached"] == pytest.approx(plan.parameters_after / plan.parameters_before)
    fast = calibrated.plan(SNPConfig(target_latency=0.99, **whole))
    assert fast.latency["reached"] < 0.9
    assert "Is the machine busy" not in caplog.text


def test_a_latency_out_of_reach_names_what_can_be_reached(calibrated, stopwatch):
    config = SNPConfig(target_latency=0.2, frozen_parts=["mlp_sparsity", "hidden_sparsity"])
    with pytest.raises(ValueError, match=r"latency of 20.0% of the model's cannot be reached.* take [5-7]\d\.\d%"):
        calibrated.plan(config)
    assert stopwatch.rounds == 1


def test_what_the_table_holds_for_unreachable_may_be_reached(calibrated, stopwatch):
    stopwatch.slowdown = staticmethod(lambda share: share - 0.2)
    frozen = {"frozen_parts": ["mlp_sparsity", "hidden_sparsity"]}
    plan = calibrated.plan(SNPConfig(target_latency=0.5, round_to=1, **frozen))
    assert 0.45 <= plan.latency["reached"] <= 0.55


def test_a_machine_that_tells_a_different_time_every_time(calibrated, stopwatch, caplog):
    stopwatch.slowdown = staticmethod(lambda share: 0.9 if stopwatch.rounds % 2 else 0.1)
    calibrated.plan(SNPConfig(target_latency=0.5))
    assert "of the model's latency, 50.0% was asked for" in caplog.text
    assert stopwatch.rounds == 4


def test_the_plan_says_where_and_how_it_was_measured(calibrated, stopwatch, tmp_path):
    config = SNPConfig(target_latency=0.5, latency_batch_size=4, latency_threads=1)
    plan = calibrated.plan(config)
    settings = {name: plan.latency[name] for name in ("backend", "batch_size", "threads")}
    assert settings == {"backend": "eager", "batch_size": 4, "threads": 1}
    assert "remain, 50.0% asked (eager, batch size 4, 1 thread, " in str(plan)
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_plans_from_before_have_no_latency(calibrated):
    plan = calibrated.plan(SNPConfig(mlp_sparsity=0.5))
    saved = plan.to_dict()
    del saved["latency"]
    assert PruningPlan.from_dict(saved) == plan
    assert "latency" not in str(plan)


def test_a_missing_package_is_told_before_calibration(source, pixel_values, monkeypatch):
    monkeypatch.setitem(packages._PACKAGES, "onnx", ("no_such_package",))
    pruner = SNPPruner.from_pretrained(source)
    with pytest.raises(ImportError, match="ONNX needs no_such_package: pip install"):
        pruner.prune(SNPConfig(target_latency=0.5, latency_backend="onnxruntime"), calibration_dataset=pixel_values)
    assert pruner.statistics is None


def test_onnx_runtime_is_for_the_cpu():
    with pytest.raises(ValueError, match=r"measured on the CPU, the model is on cuda:0"):
        backends.check_backend("onnxruntime", torch.device("cuda:0"))


@pytest.mark.parametrize("token_sparsity", [0.0, 0.5])
@pytest.mark.parametrize(
    "backend",
    ["eager", *(pytest.param(name, marks=pytest.mark.slow) for name in ("compile", "onnxruntime", "openvino"))],
)
def test_real_times(backend, token_sparsity, source, pixel_values, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(block_latency, "_POINTS", dict.fromkeys(("eager", "onnxruntime", "openvino"), (2, 2)))
    monkeypatch.setattr(latency, "_ROUNDS", 1)
    monkeypatch.setattr(latency, "_NUM_RUNS", 3)
    if token_sparsity:  # in a model this small the search for pairs takes as long as all else
        monkeypatch.setattr(latency, "_ACCEPTED", 9)
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(pixel_values, num_samples=6)
    state = torch.get_rng_state()
    config = SNPConfig(target_latency=1.0, token_sparsity=token_sparsity, latency_backend=backend, latency_threads=1)
    plan = pruner.plan(config)
    assert 0.1 < plan.latency["reached"] < (9 if token_sparsity else 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_rounds_are_logged(calibrated, stopwatch, caplog):
    caplog.set_level(logging.INFO, logger="optimum_snp")
    calibrated.plan(SNPConfig(target_latency=0.5))
    assert "50.0% asked" in caplog.text

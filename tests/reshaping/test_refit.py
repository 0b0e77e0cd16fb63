"""Refitted weights are the least-squares solutions on the raw activations."""

import copy

import pytest
import torch
from transformers import AutoModelForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.methods import few_images, method_of
from optimum_snp.planning.decide import make_plan
from optimum_snp.reshaping.refit import refit_linear, refit_scores
from tests.helpers import accuracy, build_source


METHODS = ("snp-refit", "projection")
SHARES = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5, "hidden_sparsity": 0.25}


def prune(source, images, method, **shares):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(images, num_samples=len(images))
    return pruner.prune(SNPConfig(method=method, **shares))


def outputs_of(model, images):
    with torch.no_grad():
        output = model(images)
    return output.logits if "logits" in output else output.pooler_output


def inputs_of(model, name, images):
    """What the layer `name` of every block reads, `[tokens, channels]`."""
    rows = []
    handles = [
        layer.get_submodule(name).register_forward_pre_hook(lambda _m, inputs: rows.append(inputs[0].flatten(0, 1)))
        for layer in model.base_model.layers
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return [row.double() for row in rows]


def lstsq(inputs, targets):
    """Weight and bias by QR on the activations themselves."""
    ones = torch.ones(len(inputs), 1, dtype=inputs.dtype)
    solution = torch.linalg.lstsq(torch.cat((inputs, ones), dim=1), targets).solution
    return solution[:-1].T, solution[-1]


def check_least_squares(rows, kept, linear, fitted):
    """What a layer loses by reading `kept` of its rows is the least that any layer loses, the ridge allowing."""
    targets = rows @ linear.weight.double().T
    weight, bias = lstsq(rows[:, kept], targets)
    least = (rows[:, kept] @ weight.T + bias - targets).square().sum()
    found = (rows[:, kept] @ fitted.weight.double().T + fitted.bias - linear.bias - targets).square().sum()
    plain = (rows[:, kept] @ linear.weight.double()[:, kept].T - targets).square().sum()
    assert least <= found < least + 0.05 * (plain - least)


def test_refit_linear_is_least_squares():
    torch.manual_seed(0)
    rows = torch.randn(300, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64) + 3
    weight, bias = torch.randn(5, 12, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    basis = torch.randn(12, 7, dtype=torch.float64)
    found = refit_linear(
        weight, bias, torch.cov(rows.T, correction=0), rows.mean(0), basis, torch.zeros(5, 7).double(), ridge=1e-12
    )
    torch.testing.assert_close(found, lstsq(rows @ basis, rows @ weight.T + bias), rtol=1e-6, atol=1e-6)


def test_refit_linear_keeps_the_prior_where_nothing_varies():
    weight, bias, prior = torch.randn(5, 4).double(), torch.randn(5).double(), torch.randn(5, 2).double()
    found, _ = refit_linear(
        weight, bias, torch.zeros(4, 4).double(), torch.zeros(4).double(), torch.eye(4).double()[:, :2], prior
    )
    torch.testing.assert_close(found, prior)


def test_refit_scores_is_least_squares_over_all_mixings():
    torch.manual_seed(0)
    query, key = torch.randn(2, 40, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    kept = [0, 2, 5]
    mixing = refit_scores(query.T @ query, key.T @ key, kept)
    # vec(Q_S Z K_S^T) = (Q_S kron K_S) vec(Z)
    design = torch.kron(query[:, kept].contiguous(), key[:, kept].contiguous())
    best = torch.linalg.lstsq(design, (query @ key.T).flatten()[:, None]).solution.view(3, 3)
    torch.testing.assert_close(mixing, best, rtol=1e-2, atol=1e-2)
    error, least = (torch.dist(query[:, kept] @ z @ key[:, kept].T, query @ key.T) for z in (mixing, best))
    assert error <= least * (1 + 1e-4)


@pytest.mark.parametrize(("reader", "share"), [("attention.o_proj", "v_sparsity"), ("mlp.fc2", "mlp_sparsity")])
def test_readers_are_least_squares_on_raw_activations(trained, digits, reader, share):
    """In the first block, whose inputs are those of the dense model, and the ridge allowing."""
    images = digits[0][:64]
    dense = convert(trained)
    pruner = SNPPruner.from_pretrained(trained)
    pruner.calibrate(images, num_samples=64)
    plan = pruner.plan(SNPConfig(method="snp-refit", **{share: 0.75}))
    pruned = pruner.prune(plan)
    rows = inputs_of(dense, reader, images)[0]
    linear, fitted = (model.base_model.layers[0].get_submodule(reader) for model in (dense, pruned))
    head_dim = plan.blocks[0].before["v_head_dim"]
    kept = plan.blocks[0].mlp
    if reader == "attention.o_proj":
        kept = [head * head_dim + neuron for head, neurons in enumerate(plan.blocks[0].value) for neuron in neurons]
    check_least_squares(rows, kept, linear, fitted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", ["qk_sparsity", "v_sparsity", "mlp_sparsity", "hidden_sparsity"])
def test_keeps_more_than_selection(trained, digits, method, part):
    """Held-out digits, no training; the refit is never behind selection, and never far behind dense at a quarter."""
    images, labels = digits[0][-500:], digits[1][-500:]
    share = {part: 0.25}
    selected = accuracy(prune(trained, digits[0][:64], "snp", **share), images, labels)
    refitted = accuracy(prune(trained, digits[0][:64], method, **share), images, labels)
    assert refitted >= selected - 0.01
    assert refitted > 0.85 * accuracy(trained, images, labels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_every_part_at_once_without_qkv_bias(method, qkv_bias, pixel_values):
    source = build_source("ViTForImageClassification", qkv_bias=qkv_bias)
    only_blocks = {name: share for name, share in SHARES.items() if name != "hidden_sparsity"}
    pruned = prune(source, pixel_values, method, **only_blocks)
    assert pruned.config.qkv_bias == qkv_bias
    assert torch.isfinite(outputs_of(pruned, pixel_values)).all()
    assert torch.isfinite(outputs_of(prune(source, pixel_values, method, **SHARES), pixel_values)).all()


def dead(source):
    """MLP neurons, value neurons, a query head and a stream channel that never say anything."""
    source = copy.deepcopy(source)
    with torch.no_grad():
        layer = source.base_model.layers[0]
        for linear, rows in (
            (layer.mlp.fc1, slice(0, 20)),
            (layer.attention.v_proj, slice(0, 12)),
            (layer.attention.q_proj, slice(0, 12)),
            (layer.attention.k_proj, slice(12, 24)),
        ):
            linear.weight[rows] = 0
            linear.bias[rows] = 0
        source.base_model.layers[1].mlp.fc1.weight.zero_()  # a whole MLP that is constant
    return source


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("make", "num_images"), [(lambda s: s, 1), (dead, 6), (dead, 1)])
def test_never_nan(source, method, make, num_images, pixel_values, caplog):
    """One image of 17 tokens leaves most directions unseen; constant pixels leave all but a few."""
    model = make(source)
    for images in (pixel_values[:num_images], torch.zeros(num_images, 3, 32, 32)):
        pruned = prune(model, images, method, **SHARES)
        assert all(torch.isfinite(weight).all() for weight in pruned.state_dict().values())
        assert outputs_of(pruned, pixel_values).abs().max() < 1e3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_solved_in_float64(trained, digits, method, dtype):
    images, labels = digits[0][-200:], digits[1][-200:]
    shares = {"qk_sparsity": 0.25, "v_sparsity": 0.25, "mlp_sparsity": 0.25, "hidden_sparsity": 0.1}
    exact = accuracy(prune(trained, digits[0][:64], method, **shares), images, labels)
    pruned = prune(copy.deepcopy(trained).to(dtype), digits[0][:64], method, **shares)
    assert pruned.dtype == dtype
    assert accuracy(pruned, images, labels) > exact - 0.05


@pytest.mark.parametrize("method", METHODS)
def test_too_few_images_are_named(source, pixel_values, method, caplog, monkeypatch):
    def warnings(images):
        caplog.clear()
        with caplog.at_level("WARNING"):
            prune(source, images, method, mlp_sparsity=0.5)  # 2 * 96 unknowns, 17 tokens per image
        return caplog.text

    assert "at least 64 images" in warnings(pixel_values)
    assert "images" not in warnings(torch.randn(64, 3, 32, 32))
    monkeypatch.setattr(few_images, "LEAST_IMAGES", 0)
    assert "at least 12 images" in warnings(pixel_values)
    assert "images" not in warnings(torch.randn(12, 3, 32, 32))


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_it_is_the_same(source, pixel_values, method, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(pixel_values, num_samples=6)
    pruned = pruner.prune(SNPConfig(method=method, **SHARES))
    pruner.save_pretrained(tmp_path / "pruned")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "pruned", trust_remote_code=True)
    assert torch.equal(outputs_of(loaded, pixel_values), outputs_of(pruned, pixel_values))
    again = SNPPruner.from_pretrained(tmp_path / "pruned")
    assert again.pruning_plan.to_dict() == pruner.pruning_plan.to_dict()


@pytest.mark.parametrize("method", METHODS)
def test_sizes_and_costs_are_those_of_selection(source, pixel_values, method):
    model = convert(source)
    statistics = collect_statistics(model, pixel_values, num_samples=6)
    configs = SNPConfig(method="snp", **SHARES), SNPConfig(method=method, **SHARES)
    plans = [make_plan(model, method_of(config).score(model, statistics, config), config) for config in configs]
    assert plans[0].macs_after == plans[1].macs_after
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    selected, fitted = (method_of(plan.config).reshape(model, plan, statistics) for plan in plans)
    assert selected.config.block_configs == fitted.config.block_configs
    assert selected.config.hidden_size == fitted.config.hidden_size
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_reshape_without_statistics_is_refused(source, pixel_values, method):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(pixel_values, num_samples=6)
    plan = pruner.plan(SNPConfig(method=method, qk_sparsity=0.5))
    pruner.statistics = None
    with pytest.raises(ValueError, match="Call calibrate"):
        pruner.prune(plan)

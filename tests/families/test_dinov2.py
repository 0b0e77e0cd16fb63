"""What is special in DINOv2: a classifier on two vectors, gated MLPs, positions, its backbone in models of depth."""

import copy
import os

import pytest
import torch
import torch.nn.functional as F
import transformers

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert, short_names
from optimum_snp.models import SNPViTBackbone
from optimum_snp.structure import describe
from tests.families.cases import IMAGES, Case
from tests.helpers import run_python
from tests.hub_server import HubServer


SHARES = {"qk_sparsity": 0.4, "v_sparsity": 0.3, "mlp_sparsity": 0.5, "hidden_sparsity": 0.25}
LEVEL = {"reconstruction": False}  # the closed form alone


def lstsq(inputs, targets):
    """Regression with a bias by least squares on all rows at once."""
    rows = torch.cat((inputs.double(), torch.ones(len(inputs), 1, dtype=torch.float64)), dim=1)
    return rows @ torch.linalg.lstsq(rows, targets.double()).solution


def rows_of(model, layer, images):
    """What a layer reads and puts out, `[rows, channels]` each."""
    found = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _m, inputs, output: found.extend((inputs[0], output))
    )
    with torch.no_grad():
        model(images)
    handle.remove()
    return [rows.flatten(0, -2) for rows in found]


@pytest.fixture(scope="module")
def images():
    """Enough for a regression on twice the width."""
    return torch.randn(400, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("class_name", ["Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"])
@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_the_classifier_is_least_squares_on_both_vectors(class_name, method, images):
    """On what a norm over the kept channels makes of the dense stream: class token beside the mean of the patches."""
    pruner = SNPPruner(Case(class_name).source())
    dense = pruner.model
    pruner.calibrate(images, num_samples=400, batch_size=50)
    pruned = pruner.prune(SNPConfig(method=method, hidden_sparsity=0.25, **LEVEL))
    (stream,) = describe(dense).streams
    with torch.no_grad():
        states = dense(images, output_hidden_states=True).hidden_states[-1]
        targets = dense(images).logits
        # The kept directions, by what the pruned patch embedding makes of the dense one's outputs.
        weights = [model.get_submodule(stream.writers[0]).weight.flatten(1) for model in (dense, pruned)]
    if method == "snp-refit":
        directions = torch.eye(48)[:, pruner.pruning_plan.widths[0].kept]
    else:
        directions = torch.linalg.lstsq(weights[0].T, weights[1].T).solution
        assert torch.allclose(weights[0].T @ directions, weights[1].T, atol=1e-4)
    norm = pruned.base_model.layernorm
    kept = F.layer_norm(states @ directions, (36,), norm.weight, norm.bias, norm.eps).detach()
    first = 1 + dense.config.num_register_tokens
    rows = torch.cat((kept[:, 0], kept[:, first:].mean(dim=1)), dim=1)
    with torch.no_grad():
        found = pruned.classifier(rows)
    fitted = lstsq(rows, targets)
    error, least = ((values - targets).square().sum() for values in (found, fitted))
    spread = (targets - targets.mean(dim=0)).square().sum()
    assert least <= error < least + 0.03 * spread
    assert least > 0.001 * spread  # something is lost, or nothing was tested


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_the_gated_mlp_is_least_squares_on_the_product(method, images):
    pruner = SNPPruner(Case("Dinov2WithRegistersForImageClassification", options={"use_swiglu_ffn": True}).source())
    dense = pruner.model
    pruner.calibrate(images, num_samples=400, batch_size=50)
    pruned = pruner.prune(SNPConfig(method=method, mlp_sparsity=0.5, **LEVEL))
    for block, plan in zip(describe(dense).blocks, pruner.pruning_plan.blocks, strict=True):
        products, targets = rows_of(dense, block.down, images)
        gate, up = (dense.get_submodule(layer) for layer in (block.gate, block.up))
        read = rows_of(dense, block.up, images)[0]
        with torch.no_grad():
            torch.testing.assert_close(F.silu(gate(read)) * up(read), products)
            found = pruned.get_submodule(block.down)(products[:, plan.mlp])
        for layer in (block.gate, block.up):
            assert torch.equal(pruned.get_submodule(layer).weight, dense.get_submodule(layer).weight[plan.mlp])
        fitted = lstsq(products[:, plan.mlp], targets)
        error, least = ((values - targets).square().sum() for values in (found, fitted))
        spread = (targets - targets.mean(dim=0)).square().sum()
        assert 0 < least < error * (1 + 1e-6) < least + 1e-3 * spread


def test_elimination_goes_by_the_product(images):
    """The neurons that stay lose less than those of a selection at random, by direct regressions."""
    pruner = SNPPruner(Case("Dinov2WithRegistersForImageClassification", options={"use_swiglu_ffn": True}).source())
    pruner.calibrate(images, num_samples=400, batch_size=50)
    plan = pruner.plan(SNPConfig(mlp_sparsity=0.5))
    for block, block_plan in zip(describe(pruner.model).blocks, plan.blocks, strict=True):
        products, targets = rows_of(pruner.model, block.down, images)
        at_random = torch.randperm(64, generator=torch.Generator().manual_seed(0))[: len(block_plan.mlp)]
        kept, others = (
            (lstsq(products[:, neurons], targets) - targets).square().sum() for neurons in (block_plan.mlp, at_random)
        )
        assert kept < others


@pytest.mark.parametrize("class_name", ["Dinov2Model", "Dinov2WithRegistersModel"])
@pytest.mark.parametrize("size", [(16, 24), (24, 56), (72, 40)])
def test_positions_at_other_sizes_stay_after_pruning(class_name, size):
    """Without width, a pruned model's embeddings are those of the source at every size."""
    source = Case(class_name).source()
    pruner = SNPPruner(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=IMAGES)
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(pruner.model.embeddings(images), source.embeddings(images), rtol=1e-5, atol=1e-5)


def test_width_goes_from_positions_of_every_size():
    """Interpolation is linear, so it does not matter whether channels go before or behind it."""
    pruner = SNPPruner(Case("Dinov2Model").source())
    dense = pruner.model
    pruner.prune(SNPConfig(method="snp", hidden_sparsity=0.25), calibration_dataset=IMAGES)
    images, kept = torch.randn(2, 3, 40, 56), pruner.pruning_plan.widths[0].kept
    with torch.inference_mode():
        torch.testing.assert_close(pruner.model.embeddings(images), dense.embeddings(images)[..., kept])


def build_depth_anything(backbone_config):
    return transformers.DepthAnythingForDepthEstimation(
        transformers.DepthAnythingConfig(
            backbone_config=backbone_config, patch_size=8, reassemble_hidden_size=backbone_config.hidden_size,
            neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=8,
        )
    )  # fmt: skip


def build_dpt(backbone_config):
    return transformers.DPTForDepthEstimation(
        transformers.DPTConfig(
            backbone_config=backbone_config, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False, use_batch_norm_in_fusion_residual=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize("method", ["snp", "projection"])
@pytest.mark.parametrize("build", [build_depth_anything, build_dpt])
def test_a_pruned_backbone_stands_in_models_of_depth(build, method, tmp_path):
    """With a block dropped and all parts smaller; the stages keep their names, so the neck finds its maps."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    options = {"num_hidden_layers": 4, "out_features": stages, "reshape_hidden_states": False}
    pruner = SNPPruner(Case("Dinov2Backbone", options=options).source())
    pruner.prune(SNPConfig(method=method, dropped_blocks=[1], **SHARES), calibration_dataset=IMAGES)
    backbone = pruner.model
    assert backbone.out_features == stages
    config = copy.deepcopy(backbone.config)
    torch.manual_seed(0)
    model = build(config).eval()
    assert type(model.backbone) is SNPViTBackbone
    model.backbone.load_state_dict(backbone.state_dict())
    images = torch.randn(2, 3, 32, 48)
    maps = model.backbone(images).feature_maps
    with torch.no_grad():
        assert all(torch.equal(one, other) for one, other in zip(maps, backbone(images).feature_maps, strict=True))
    assert torch.equal(maps[0], maps[1])  # stage 2 ends where stage 1 does
    depth = model(images).predicted_depth
    assert torch.isfinite(depth).all()
    depth.mean().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images).predicted_depth, depth)


HUB_SCRIPT = """
import sys, torch
from optimum_snp import SNPConfig, SNPPruner
pruner = SNPPruner.from_pretrained("dinov2-small")
print(type(pruner.model).__name__, pruner.model.config._name_or_path)
pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=torch.randn(4, 3, 32, 32))
pruner.save_pretrained(sys.argv[1])
"""


def test_short_name_over_http(tmp_path):
    Case("Dinov2Model").source().save_pretrained(tmp_path / "hub" / "facebook" / "dinov2-small")
    with HubServer(tmp_path / "hub") as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
        said = run_python(HUB_SCRIPT, tmp_path / "pruned", env={**environment, "PYTHONPATH": os.getcwd()})
    assert said.split() == ["SNPViTModel", "facebook/dinov2-small"]
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert "# Pruned DINOv2" in card
    assert "base_model: facebook/dinov2-small" in card


def test_all_sizes_have_short_names():
    names = {name: full for name, full in short_names().items() if name.startswith("dinov2")}
    assert names["dinov2-with-registers-giant"] == "facebook/dinov2-with-registers-giant"
    assert len(names) == 8


def test_options_of_the_source_that_cannot_be_converted_are_named():
    with pytest.raises(
        ValueError, match=r"image_size is \[32, 40\]. DINOv2 reads its position embeddings as a square"
    ):
        convert(Case("Dinov2Model").source(image_size=[32, 40]))


def test_stochastic_depth_of_the_source_stays():
    model = convert(Case("Dinov2Model").source(drop_path_rate=0.2))
    rates = [model.get_submodule(name).rate for block in describe(model).blocks for name in block.drop_paths]
    assert rates == pytest.approx([0.0, 0.1, 0.2])

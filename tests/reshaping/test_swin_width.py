"""The widths of a Swin in closed form: one rotation per stage, through patch embedding and patch merging."""

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import collect_statistics
from optimum_snp.families import convert
from optimum_snp.reshaping.width import rotation
from optimum_snp.structure import describe
from tests.helpers import SWIN_CLASSES, build_source
from tests.reshaping.test_refit import prune
from tests.reshaping.test_width import rotated
from tests.swin_reference import swin_reference


FEATURES = {"out_features": ["stem", "stage1", "stage2"]}
SIZES = [(32, 32), (30, 27)]  # 8 x 8 tokens; 8 x 7, which pad the windows and the patch merging in another way


def build(class_name, **options):
    return build_source(class_name, **options, **(FEATURES if class_name == "SwinBackbone" else {}))


def images(count, size=32, seed=1):
    shape = size if isinstance(size, tuple) else (size, size)
    return torch.randn(count, 3, *shape, generator=torch.Generator().manual_seed(seed))


def results(model, pixel_values, norms=None):
    """What must not change: logits; of features, whose axes may turn, the products of all pairs of tokens.

    With `norms` the features are taken without the shifts of these, and with scales of the same size alone.
    """
    with torch.no_grad():
        output = model(pixel_values, interpolate_pos_encoding=True)
    if "logits" in output:
        return [output.logits]
    if "feature_maps" in output:
        features = [feature_map.flatten(2).mT for feature_map in output.feature_maps]
    else:
        features = [output.last_hidden_state, output.pooler_output]
    if norms is not None:
        features = [
            (states - norm.bias) / norm.weight * norm.weight.square().mean().sqrt()
            for states, norm in zip(features, norms, strict=True)
        ]
    return [states @ states.mT for states in features]


def feature_norms(source):
    if "Backbone" in type(source).__name__:
        return list(source.hidden_states_norms.values())
    return [source.base_model.layernorm] * 2


def assert_same_function(model, source, sizes=SIZES, tolerance=1e-3):
    """On images never seen, of the configured size and of another."""
    for size in sizes:
        # Transformers' own Swin reads neither maps smaller than a window nor positions for other sizes.
        dense = results(convert(source), images(3, size), feature_norms(source))
        for one, other in zip(results(model, images(3, size)), dense, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("class_name", SWIN_CLASSES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_absolute_embeddings": True},
        {"qkv_bias": False},
        # 5 dimensions are all that the patches, their bias and equal channels fill; windows larger than the last map
        {"patch_size": 1, "image_size": 8, "window_size": 7},
        {"embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "window_size": 4},
    ],
)
def test_a_rotation_to_all_axes_is_the_same_function(class_name, options):
    stages = [f"stage{stage + 1}" for stage in range(len(options.get("depths", [2, 2])))]
    features = {"out_features": ["stem", *stages]} if class_name == "SwinBackbone" else {}
    source = build_source(class_name, **options, **features)
    model = convert(source)
    size = source.config.image_size
    weights = rotated(model, collect_statistics(model, images(20, size, seed=0), num_samples=20))
    fields = model.config.to_dict()
    convolution = next(name for name in weights if name.endswith("patch_embeddings.projection.bias"))
    fields |= {"patch_embedding_size": len(weights[convolution]), "merging_bias": True, "qkv_bias": True}
    turned = type(model)(type(model.config).from_dict(fields)).eval()
    turned.load_state_dict(weights)
    for before, after in zip(describe(model).blocks, describe(turned).blocks, strict=True):
        assert not torch.allclose(before.module.mlp.fc2.weight, after.module.mlp.fc2.weight, atol=0.01)
    assert_same_function(turned, source, [(size, size), (size - 2, size - 5)], tolerance=1e-4)


def low_rank(class_name, ranks):
    """A Swin whose streams fill few dimensions each, those of equal channels not counted."""
    source = build(class_name, use_absolute_embeddings=True)
    swin = source.base_model
    torch.manual_seed(1)
    projections = []
    for rank, width in zip(ranks, (12, 24), strict=True):
        basis = torch.linalg.qr(torch.randn(width, rank)).Q
        projections.append(basis @ basis.T)
    embeddings, merging = swin.embeddings, swin.encoder.layers[0].downsample.reduction
    writers = [[embeddings.patch_embeddings.projection], [merging]]
    for stage, layers in zip(swin.encoder.layers, writers, strict=True):
        layers += [linear for layer in stage.blocks for linear in (layer.attention.o_proj, layer.mlp.fc2)]
    with torch.no_grad():
        for projection, layers in zip(projections, writers, strict=True):
            for linear in layers:
                linear.weight.copy_(torch.tensordot(projection, linear.weight, dims=1))
                if linear.bias is not None:
                    linear.bias.copy_(projection @ linear.bias)
        for projection, stage in zip(projections, swin.encoder.layers, strict=True):
            for layer in stage.blocks:  # the padding of windows gets the shift that this gives
                norm = layer.layernorm_before
                norm.bias.copy_(norm.weight * (projection @ norm.bias))
        embeddings.norm.weight.fill_(1)  # another scale would fill all dimensions
        embeddings.norm.bias.copy_(projections[0] @ embeddings.norm.bias)
        embeddings.position_embeddings.copy_(embeddings.position_embeddings @ projections[0])
    return source


@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_streams_of_low_rank_lose_nothing(class_name):
    source = low_rank(class_name, ranks=(8, 17))
    pruned = prune(source, images(40, seed=0), "projection", hidden_sparsity=0.25)
    assert pruned.config.hidden_sizes == [9, 18]
    assert_same_function(pruned, source)


@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_pruning_twice_goes_on_from_the_layer_that_was_added(class_name):
    source = low_rank(class_name, ranks=(8, 17))
    pruner = SNPPruner.from_pretrained(source)
    for shares, widths in (([1 / 12, 1 / 24], [11, 23]), ([2 / 11, 5 / 23], [9, 18])):
        pruner.calibrate(images(40, seed=0), num_samples=40)
        pruned = pruner.prune(SNPConfig(hidden_sparsity=shares))
        assert pruned.config.hidden_sizes == widths
        assert pruned.config.patch_embedding_size == 12
        assert_same_function(pruned, source)


@pytest.mark.parametrize(
    ("method", "shares", "patch_size", "patch_embedding_size", "has_biases"),
    [
        ("snp", 0.25, 4, None, False),
        ("projection", 0.0, 4, None, False),
        ("projection", [0.0, 0.25], 4, None, True),
        ("projection", [0.25, 0.0], 4, 12, True),
        ("projection", 0.25, 1, 5, True),  # 3 colours, a bias and equal channels
        ("snp-refit", [0.25, 0.0], 4, 12, True),
    ],
)
def test_layers_are_added_only_where_they_are_needed(method, shares, patch_size, patch_embedding_size, has_biases):
    source = build("SwinForImageClassification", qkv_bias=False, patch_size=patch_size, image_size=8 * patch_size)
    pruned = prune(source, images(8, 8 * patch_size), method, hidden_sparsity=shares, mlp_sparsity=0.5)
    config, swin = pruned.config, pruned.base_model
    assert (config.patch_embedding_size, config.merging_bias, config.qkv_bias) == (
        patch_embedding_size,
        has_biases,
        has_biases,
    )
    assert (swin.embeddings.reduction is None) == (patch_embedding_size is None)
    assert (swin.stages[0].downsample.reduction.bias is None) != has_biases
    assert (swin.stages[1].blocks[0].attention.q_proj.bias is None) != has_biases
    convolution = swin.embeddings.patch_embeddings.projection
    assert convolution.out_channels == (patch_embedding_size or config.hidden_sizes[0])


@pytest.mark.parametrize("class_name", SWIN_CLASSES)
def test_axes_are_those_of_all_norms_of_the_stage(class_name):
    source, pixel_values = build(class_name), images(6)
    model = convert(source)
    statistics = collect_statistics(model, pixel_values, num_samples=6)
    reference = swin_reference(source, pixel_values)
    norms = [[], []]
    for stage, block in zip((0, 0, 1, 1, 1), reference.blocks, strict=True):
        norms[stage] += [block.before, block.after]
    norms[0].append(reference.merging[0].unflatten(-1, (4, 12)).flatten(0, -2))
    last = [
        torch.nn.functional.layer_norm(states, states.shape[-1:]) for states in (reference.stem, *reference.states)
    ]
    if class_name == "SwinBackbone":
        norms[0] += [states.flatten(0, 1) for states in last[:2]]
    pooled = last[2].mean(1) if class_name == "SwinForImageClassification" else last[2].flatten(0, 1)
    norms[1].append(pooled)
    for stream, all_rows, size in zip(describe(model).streams, norms, (7, 15), strict=True):
        directions = rotation(stream, statistics, size)
        width = stream.width
        torch.testing.assert_close(directions.T @ directions, size / width * torch.eye(size).double())
        torch.testing.assert_close(torch.ones(width).double() @ directions, torch.ones(size).double())
        stacked = torch.cat([(rows - rows.mean(-1, keepdim=True)) / rows.norm() for rows in all_rows])
        _, values, axes = torch.linalg.svd(stacked, full_matrices=False)
        assert (values[size - 2] - values[size - 1]) / values[0] > 1e-3  # else the last axis would be arbitrary
        expected = torch.cat((axes[: size - 1], torch.full((1, width), width**-0.5).double()))
        torch.testing.assert_close(
            directions @ directions.T * width / size, expected.T @ expected, rtol=0, atol=1e-4
        )  # fmt: skip

"""The pruned Swin: what HF models have, for stages and blocks of any sizes and for windows of any shift."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import UperNetConfig, UperNetForSemanticSegmentation

from optimum_snp.models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from optimum_snp.models.snp_swin.modeling_snp_swin import SNPSwinDropPath, SNPSwinPatchMerging, build_windows
from tests.helpers import checkpoint_activations
from tests.models.comparison import record_attention


def block(heads=2, qk=5, v=9, mlp=20, scale=0.3, shift=0):
    return {
        "num_attention_heads": heads,
        "qk_head_dim": qk,
        "v_head_dim": v,
        "intermediate_size": mlp,
        "attention_scale": scale,
        "shift_size": shift,
    }


UNEQUAL_BLOCKS = [
    [block(), block(heads=3, qk=11, v=4, mlp=7, shift=1)],
    [block(heads=1, qk=6, v=6, shift=2)],
]
WIDTHS = [10, 15]
ALL_CLASSES = [SNPSwinModel, SNPSwinForImageClassification, SNPSwinBackbone]


def build(model_class=SNPSwinForImageClassification, implementation="sdpa", **options):
    """A random pruned model: 8 x 8 and 4 x 4 tokens in windows of 3 x 3, no weight at its initial constant."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "window_size": 3, "hidden_sizes": WIDTHS, "block_configs": UNEQUAL_BLOCKS}
    config = SNPSwinConfig(**{**sizes, "num_labels": 4, "initializer_range": 0.2, "drop_path_rate": 0.0, **options})
    config._attn_implementation = implementation
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def first(output):
    """The logits, states or last feature map of an output."""
    return output.feature_maps[-1] if "feature_maps" in output else output[0]


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def rolled_windows(values, size, shift):
    """The windows of a map `[height, width, …]` by padding, rolling and slicing: `[windows, size * size, …]`."""
    height, width = values.shape[:2]
    padded = values.new_zeros(height + -height % size, width + -width % size, *values.shape[2:])
    padded[:height, :width] = values
    padded = torch.roll(padded, (-shift, -shift), (0, 1))
    windows = [
        padded[row : row + size, column : column + size].flatten(0, 1)
        for row in range(0, padded.shape[0], size)
        for column in range(0, padded.shape[1], size)
    ]
    return torch.stack(windows)


@st.composite
def partitions(draw):
    size = draw(st.integers(1, 4))
    return draw(st.integers(1, 11)), draw(st.integers(1, 11)), size, draw(st.integers(0, size - 1))


@given(partitions())
@settings(max_examples=60, deadline=None)
def test_one_gather_shifts_pads_and_cuts(partition):
    height, width, size, shift = partition
    values = torch.arange(1.0, height * width + 1).view(height, width)
    windows = build_windows((height, width), size, shift, size)
    rows = torch.cat((values.flatten(), torch.zeros(1)))  # the last one stands for the padding
    gathered = rows[windows.tokens]
    assert torch.equal(gathered.view(-1, size * size), rolled_windows(values, size, shift))
    assert torch.equal(gathered[windows.places], values.flatten())


@given(partitions())
@settings(max_examples=60, deadline=None)
def test_mask_parts_what_the_roll_brought_together(partition):
    height, width, size, shift = partition
    windows = build_windows((height, width), size, shift, size)
    if shift == 0:
        assert windows.mask is None
        return
    # In the windows that hold them, the rows and columns before the shift come from the opposite border.
    padded = (height + -height % size, width + -width % size)
    grid = torch.stack(torch.meshgrid(*(torch.arange(length) for length in padded), indexing="ij"), dim=-1)
    wrapped = rolled_windows(grid, size, shift) < shift
    apart = (wrapped[:, :, None] != wrapped[:, None]).any(-1)
    assert torch.equal(windows.mask, apart[:, None] * -100.0)


@given(table_size=st.integers(1, 5), data=st.data())
@settings(max_examples=30, deadline=None)
def test_bias_depends_on_the_offset_alone_also_in_smaller_windows(table_size, data):
    size = data.draw(st.integers(1, table_size))
    offsets = torch.arange(1 - table_size, table_size)
    table = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1).view(-1, 2)
    index = build_windows((7, 7), size, 0, table_size).bias_index
    places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), dim=-1).view(-1, 2)
    assert torch.equal(table[index], places[:, None] - places)


@pytest.mark.parametrize("size", [(32, 32), (12, 40), (45, 33)])
@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_sdpa_equals_eager_for_unequal_sizes(model_class, size, device):
    images = torch.randn(2, 3, *size, device=device)
    eager, fused = (build(model_class, implementation).to(device) for implementation in ("eager", "sdpa"))
    torch.testing.assert_close(first(fused(images)), first(eager(images)), atol=1e-5, rtol=1e-5)


def test_fused_attention_always_sees_one_size(images, monkeypatch):
    calls = record_attention(monkeypatch)
    build()(images)
    assert [tuple(states.shape[-1] for states in call) for call in calls] == [(9, 9, 9), (11, 11, 11), (6, 6, 6)]


@pytest.mark.parametrize(("qk", "v"), [(1, 8), (8, 1)])
def test_a_head_alone_keeps_the_strides_that_kernels_take(qk, v, images, monkeypatch):
    """Kernels of CUDA load several numbers at once, so heads and tokens must start at multiples of that."""
    calls = record_attention(monkeypatch)
    build(block_configs=[[block(heads=1, qk=qk, v=v)], [block(heads=1, qk=qk, v=v, shift=1)]])(images)
    assert calls and all(stride % 8 == 0 for call in calls for states in call for stride in states.stride()[:-1])


def test_projections_see_windows_and_everything_else_sees_tokens(images):
    """What calibration relies on."""
    model = build()
    shapes = {}
    attention = model.snp_swin.stages[0].blocks[1].attention
    for name, module in {**dict(attention.named_children()), "block": model.snp_swin.stages[0].blocks[1].mlp}.items():
        module.register_forward_hook(lambda _, inputs, __, name=name: shapes.update({name: tuple(inputs[0].shape)}))
    model(images)
    assert shapes == {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), (2 * 9, 9, 10)),
        "o_proj": (2, 64, 3 * 4),
        "block": (2, 64, 10),
    }


def test_query_of_the_padding_is_the_bias(images):
    model = build()
    stage, queries = model.snp_swin.stages[0], []
    stage.blocks[0].attention.q_proj.register_forward_hook(lambda _, __, output: queries.append(output))
    model(images)
    padding = queries[0].flatten(0, 1)[stage.windows["0"].tokens.repeat(2) == 64]
    assert len(padding) == 2 * (81 - 64)
    torch.testing.assert_close(padding, stage.blocks[0].attention.q_proj.bias.expand_as(padding))


def test_outputs_have_the_shapes_of_every_stage(images):
    output = build()(images, output_attentions=True, output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, 64, 10), (2, 16, 15), (2, 16, 15)]
    assert [tuple(states.shape) for states in output.reshaped_hidden_states] == [
        (2, 10, 8, 8),
        (2, 15, 4, 4),
        (2, 15, 4, 4),
    ]
    assert [tuple(probabilities.shape) for probabilities in output.attentions] == [(18, 3, 9, 9), (8, 1, 9, 9)]
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(18, 3, 9))


@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_nothing_is_returned_that_was_not_asked_for(model_class, images):
    assert set(build(model_class)(images)) <= {"last_hidden_state", "pooler_output", "logits", "feature_maps"}


def test_tuple_output(images):
    model = build()
    assert torch.equal(model(images, return_dict=False)[0], model(images).logits)


def test_pooler_is_the_mean_of_the_tokens(images):
    output = build(SNPSwinModel)(images)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state.mean(1))
    assert build(SNPSwinModel, use_pooler=False)(images).pooler_output is None


def test_loss_is_cross_entropy_and_trains_every_weight(images):
    model, labels = build(patch_embedding_size=12, use_absolute_embeddings=True).train(), torch.tensor([1, 3])
    output = model(images, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("model_class", [SNPSwinForImageClassification, SNPSwinBackbone])
def test_gradient_checkpointing_gives_the_same_gradients(model_class, images):
    plain = build(model_class).train()
    checkpointed = copy.deepcopy(plain)
    checkpoint_activations(checkpointed)
    assert all(layer.gradient_checkpointing for stage in checkpointed.snp_swin.stages for layer in stage.blocks)
    for model in (plain, checkpointed):
        first(model(images)).square().mean().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_half_precision_is_near_float32(images, dtype, implementation):
    model = build(implementation=implementation)
    expected = model(images).logits
    logits = model.to(dtype)(images).logits  # float32 images are cast
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, atol=0.2, rtol=0.1)


def test_images_of_any_size_leave_no_trace(images):
    model = build()
    expected = model(images).logits
    for size in ((4, 4), (9, 50), (64, 64)):
        assert model(torch.randn(1, 3, *size)).logits.shape == (1, 4)
    assert torch.equal(model(images).logits, expected)


@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_configured_image_size_changes_only_what_is_ready(model_class, images):
    """The windows that are kept for one image size are those that are built for any other."""
    model, other = build(model_class), build(model_class, image_size=56)
    other.load_state_dict(model.state_dict())
    assert torch.equal(first(other(images)), first(model(images)))


def test_position_embeddings_need_interpolation_for_other_sizes(images):
    model = build(use_absolute_embeddings=True)
    assert model.snp_swin.embeddings.position_embeddings.shape == (1, 64, 10)
    larger = torch.randn(2, 3, 24, 63)
    with pytest.raises(ValueError, match=r"6x16 patches; the model has position embeddings for 8x8.*interpolate_pos"):
        model(larger)
    assert model(larger, interpolate_pos_encoding=True).logits.shape == (2, 4)
    assert torch.equal(model(images, interpolate_pos_encoding=True).logits, model(images).logits)


def test_wrong_number_of_channels():
    with pytest.raises(ValueError, match="4 channels; the model reads 3"):
        build()(torch.randn(2, 4, 32, 32))


def test_patches_pass_norm_reduction_and_positions_in_this_order(images):
    embeddings = build(patch_embedding_size=12, use_absolute_embeddings=True).snp_swin.embeddings
    patches = embeddings.patch_embeddings.projection(images).flatten(2).transpose(1, 2)
    assert patches.shape == (2, 64, 12)
    normed = F.layer_norm(patches, (12,), embeddings.norm.weight, embeddings.norm.bias)
    expected = (
        F.linear(normed, embeddings.reduction.weight, embeddings.reduction.bias) + embeddings.position_embeddings
    )
    states, grid = embeddings(images)
    assert grid == (8, 8)
    torch.testing.assert_close(states, expected)
    assert build().snp_swin.embeddings.reduction is None


@pytest.mark.parametrize("is_post_norm", [False, True])
@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1)])
def test_patch_merging_joins_neighbours_column_by_column(grid, is_post_norm):
    height, width = grid
    merging = SNPSwinPatchMerging(5, 7, bias=True, is_post_norm=is_post_norm)
    assert SNPSwinPatchMerging(5, 7, bias=False).reduction.bias is None
    states = torch.randn(2, height * width, 5)
    padded = torch.zeros(2, height + height % 2, width + width % 2, 5)
    padded[:, :height, :width] = states.view(2, height, width, 5)
    joined = [
        torch.cat([padded[:, row + below, column + right] for right in (0, 1) for below in (0, 1)], dim=-1)
        for row in range(0, height, 2)
        for column in range(0, width, 2)
    ]
    layers = (merging.reduction, merging.norm) if is_post_norm else (merging.norm, merging.reduction)
    expected = layers[1](layers[0](torch.stack(joined, dim=1)))
    torch.testing.assert_close(merging(states, grid), expected)


def test_merging_bias_is_there_when_the_config_says_so():
    assert build().snp_swin.stages[0].downsample.reduction.bias is None
    assert build(merging_bias=True).snp_swin.stages[0].downsample.reduction.bias.shape == (15,)


def test_drop_path_keeps_the_mean_and_drops_whole_images():
    torch.manual_seed(0)
    drop_path, ones = SNPSwinDropPath(0.25).train(), torch.ones(4000, 2, 3)
    dropped = drop_path(ones)
    kept = dropped[:, 0, 0] > 0
    assert torch.equal(dropped, kept[:, None, None] / 0.75 * ones)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert drop_path.eval()(ones) is ones


def test_drop_path_leaves_out_the_attention_and_nothing_else(images):
    """The last of two blocks loses its attention for every image: as if it wrote zeros."""
    sizes = {"block_configs": [[block(), block(shift=1)]], "hidden_sizes": [10]}
    dropped, silent = build(drop_path_rate=1.0, **sizes).train(), build(**sizes).train()
    with torch.no_grad():
        for parameter in silent.snp_swin.stages[0].blocks[1].attention.o_proj.parameters():
            parameter.zero_()
    torch.testing.assert_close(dropped(images).logits, silent(images).logits)


def test_drop_path_grows_over_all_blocks():
    model = build(drop_path_rate=0.2)
    rates = [layer.drop_path.rate for stage in model.snp_swin.stages for layer in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_backbone_in_a_segmentation_model_trains():
    """A decoder of transformers on the feature maps of a pruned backbone, forward and backward."""
    config = build(SNPSwinBackbone, out_features=["stem", "stage1", "stage2"]).config
    model = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=config, hidden_size=8, num_labels=3, auxiliary_in_channels=15)
    )
    assert type(model.backbone) is SNPSwinBackbone
    output = model(torch.randn(2, 3, 32, 32), labels=torch.randint(3, (2, 32, 32)))
    assert output.logits.shape == (2, 3, 32, 32)
    output.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["backbone.snp_swin.layernorm.weight", "backbone.snp_swin.layernorm.bias"]  # read by none


def test_backbone_chooses_its_feature_maps(images):
    backbone = build(SNPSwinBackbone, out_features=["stem", "stage2"])
    assert (backbone.config.out_indices, backbone.channels) == ([0, 2], [10, 15])
    maps = backbone(images, output_hidden_states=True)
    assert [tuple(feature_map.shape) for feature_map in maps.feature_maps] == [(2, 10, 8, 8), (2, 15, 4, 4)]
    assert [tuple(states.shape) for states in maps.hidden_states] == [(2, 10, 8, 8), (2, 10, 8, 8), (2, 15, 4, 4)]
    stem = backbone.hidden_states_norms["stem"](maps.hidden_states[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(maps.feature_maps[0], stem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": [2]}, "depths has 1 stages, block_configs has 2"),
        ({"depths": [2, 2]}, r"depths\[1\] is 2, block_configs\[1\] has 1 blocks"),
        ({"block_configs": [[block()], []]}, r"depths\[1\] is 0, block_configs\[1\] has 0 blocks.*at least 1"),
        ({"block_configs": [], "hidden_sizes": []}, "block_configs must have at least one stage"),
        ({"hidden_sizes": [10]}, "hidden_sizes has 1 stages, block_configs has 2"),
        ({"hidden_sizes": [10, 0]}, r"hidden_sizes\[1\] must be a positive integer, got 0"),
        ({"hidden_size": 10}, "hidden_size is 10, but the other fields say 15. Leave hidden_size out"),
        ({"num_layers": 4}, "num_layers is 4, but the other fields say 2"),
        ({"stage_names": ["stage1"]}, "stage_names is .* but the other fields say"),
        ({"patch_embedding_size": 0}, "patch_embedding_size must be a positive integer, got 0"),
        ({"window_size": 0}, "window_size must be a positive integer, got 0"),
        (
            {"window_size": 2},
            r"block_configs\[1\]\[0\].shift_size must be an integer from 0 to window_size - 1 = 1, got 2",
        ),
        ({"embed_dim": 1.5}, "embed_dim must be a positive integer, got 1.5"),
        ({"out_features": ["stage9"]}, "out_features must be a subset of stage_names"),
        ({"out_features": ["stage1"], "out_indices": [2]}, r"out_indices is \[2\], but the other fields say \[1\]"),
    ],
)
def test_contradictions_are_refused_naming_stage_and_field(change, message):
    sizes = {"window_size": 3, "hidden_sizes": WIDTHS, "block_configs": UNEQUAL_BLOCKS}
    with pytest.raises(ValueError, match=message):
        SNPSwinConfig(**{**sizes, **change})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (block(qk=0), r"\[1\]\[0\].qk_head_dim must be a positive integer, got 0"),
        (block(v=2.5), r"\[1\]\[0\].v_head_dim must be a positive integer, got 2.5"),
        (block(heads=True), r"\[1\]\[0\].num_attention_heads must be a positive integer"),
        (block(mlp=-3), r"\[1\]\[0\].intermediate_size must be a positive integer"),
        (block(scale=-1.0), r"\[1\]\[0\].attention_scale must be a positive number"),
        (block(shift=-1), r"\[1\]\[0\].shift_size must be an integer from 0 to window_size - 1 = 2, got -1"),
        (block(shift=0.5), r"\[1\]\[0\].shift_size must be an integer"),
        ({"qk_head_dim": 3}, r"\[1\]\[0\] must have exactly the fields.*missing.*v_head"),
        ({**block(), "size": 3}, r"\[1\]\[0\].*unknown: size"),
    ],
)
def test_bad_blocks_are_refused_naming_block_and_field(bad, message):
    with pytest.raises(ValueError, match="block_configs" + message):
        SNPSwinConfig(window_size=3, hidden_sizes=WIDTHS, block_configs=[[block()], [bad]])


def test_dense_config_from_the_sizes_of_a_swin():
    config = SNPSwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 4], window_size=5, mlp_ratio=2.5)
    assert (config.hidden_sizes, config.hidden_size) == ([8, 16], 16)
    assert config.block_configs == [
        [block(heads=1, qk=8, v=8, mlp=20, scale=8**-0.5)],
        [block(heads=4, qk=4, v=4, mlp=40, scale=0.5, shift=shift) for shift in (0, 2)],
    ]
    with pytest.raises(ValueError, match=r"width 16 of stage 1 is no multiple of num_heads\[1\] 3"):
        SNPSwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 3])
    with pytest.raises(ValueError, match="num_heads has 4 stages, depths has 2"):
        SNPSwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 3, 4, 4])


@pytest.mark.parametrize(
    "name", ["intermediate_size", "num_attention_heads", "hidden_size", "hidden_sizes", "window_size", "depths"]
)
def test_scalars_that_the_blocks_overrule_are_refused_at_loading(tmp_path, name):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{name} cannot be changed while loading"):
        SNPSwinForImageClassification.from_pretrained(tmp_path, **{name: 7})
    with pytest.raises(ValueError, match=f"{name} cannot be changed while loading"):
        SNPSwinConfig.from_pretrained(tmp_path, **{name: 7})


@pytest.mark.parametrize("options", [{}, {"patch_embedding_size": 12, "merging_bias": True, "qkv_bias": False}])
@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_saving_and_loading_gives_the_same_bits(model_class, options, images, tmp_path):
    model = build(model_class, use_absolute_embeddings=True, **options)
    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(first(loaded(images)), first(model(images)))


def test_backbone_of_a_classifier_takes_its_weights(images, tmp_path):
    classifier = build()
    classifier.save_pretrained(tmp_path)
    backbone = SNPSwinBackbone.from_pretrained(tmp_path, out_features=["stage1", "stage2"])
    assert backbone.out_features == ["stage1", "stage2"]
    expected = classifier.snp_swin.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in backbone.snp_swin.state_dict().items())


def test_config_survives_saving(tmp_path):
    config = build(out_features=["stage1"], patch_embedding_size=12).config
    config.save_pretrained(tmp_path)
    loaded = SNPSwinConfig.from_pretrained(tmp_path)
    assert loaded.block_configs == config.block_configs
    assert (loaded.out_features, loaded.out_indices) == (["stage1"], [1])
    assert loaded.to_dict() == {**config.to_dict(), "transformers_version": loaded.transformers_version}
    assert loaded.auto_map == {
        "AutoConfig": "configuration_snp_swin.SNPSwinConfig",
        "AutoModel": "modeling_snp_swin.SNPSwinModel",
        "AutoModelForImageClassification": "modeling_snp_swin.SNPSwinForImageClassification",
        "AutoBackbone": "modeling_snp_swin.SNPSwinBackbone",
    }


def test_deep_copies_share_no_blocks():
    config = build().config
    twin = copy.deepcopy(config)
    twin.block_configs[0][0]["qk_head_dim"] = 99
    assert config.block_configs[0][0]["qk_head_dim"] == 5
    assert UNEQUAL_BLOCKS[0][0]["qk_head_dim"] == 5


@pytest.mark.parametrize("size", [(32, 32), (12, 45)])
@pytest.mark.parametrize("model_class", ALL_CLASSES)
def test_compiles_without_graph_breaks(model_class, size):
    model, images = build(model_class), torch.randn(2, 3, *size)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    with torch.inference_mode():
        torch.testing.assert_close(first(compiled(images)), first(model(images)))


def test_exports_for_any_batch_size(images):
    model = build()
    with torch.no_grad():
        exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        for batch in (images[:1], torch.cat((images, images, images))):
            torch.testing.assert_close(exported(batch).logits, model(batch).logits)

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from optimum_snp.families import convert
from optimum_snp.models import SNPViTBackbone, SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from optimum_snp.models.snp_vit.modeling_snp_vit import SNPViTTokenMerging
from optimum_snp.structure import block_sizes, num_mergeable_tokens, resized_config, stream_widths
from tests.helpers import CLASSES, build_source, checkpoint_activations, inputs_for


SIZES = {"num_attention_heads": 2, "qk_head_dim": 6, "v_head_dim": 8, "intermediate_size": 24, "attention_scale": 0.4}


# The families whose attention reads where patches are, or that need all of them.
NOT_MERGING = ("Swin", "DINOv3", "Beit", "Data2Vec")


def build_config(merged=(5, 3, 0), **options):
    options = {"hidden_size": 16, "image_size": 32, "patch_size": 8, "num_labels": 5} | options
    return SNPViTConfig(block_configs=[{**SIZES, "merged_tokens": count} for count in merged], **options)


def build(merged=(5, 3, 0), model_class=SNPViTForImageClassification, seed=0, **options):
    torch.manual_seed(seed)
    model = model_class(build_config(merged, **options)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def merge_directly(states, keys, sizes, num_merged, num_extra):
    """One image, token by token: a list of tokens with the sets of tokens that went into each."""
    first = list(range(num_extra, len(states), 2))
    second = list(range(num_extra + 1, len(states), 2))
    found = []
    for token in first:
        cosines = [
            sum(F.cosine_similarity(vectors[token], vectors[other], dim=0).item() for vectors in (keys, states))
            for other in second
        ]
        found.append((max(cosines), token, second[int(np.argmax(cosines))]))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    groups = {token: [token] for token in range(len(states))}
    for _, token, partner in found[:num_merged]:
        groups[partner] += groups.pop(token)
    kept = [*range(num_extra), *(token for token in first if token in groups), *second]
    members = [groups[token] for token in kept]
    new_sizes = torch.stack([sizes[group].sum() for group in members])
    means = [(states[group] * sizes[group, None]).sum(0) / sizes[group].sum() for group in members]
    places = [next(place for place, group in enumerate(members) if token in group) for token in range(len(states))]
    return torch.stack(means), new_sizes, torch.tensor(places)


@given(num_patches=st.integers(2, 15), num_extra=st.integers(0, 3), share=st.floats(0, 1), seed=st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_merges_what_a_direct_search_finds(num_patches, num_extra, share, seed):
    generator = torch.Generator().manual_seed(seed)
    num_merged = max(1, round(share * (num_patches // 2)))
    states = torch.randn(2, num_extra + num_patches, 4, generator=generator)
    keys = torch.randn(2, num_extra + num_patches, 6, generator=generator)
    sizes = torch.randint(1, 5, states.shape[:2], generator=generator).float()
    merged = SNPViTTokenMerging(num_merged, num_extra)(states, keys, sizes)
    for index in range(2):
        expected = merge_directly(states[index], keys[index], sizes[index], num_merged, num_extra)
        for found, of_image in zip(merged, expected, strict=True):
            torch.testing.assert_close(found[index], of_image)


def test_of_equals_the_first_merge():
    """Keys and directions all alike: the first pairs merge, and all of them into the first partner."""
    states = torch.arange(8.0).view(1, 8, 1)
    merged, sizes, places = SNPViTTokenMerging(2, 1)(states, torch.ones(1, 8, 3), torch.ones(1, 8))
    # The class token, then of the first set the two that stay, then the second set; tokens 1 and 3 went into 2.
    assert merged.flatten().tolist() == [0, 5, 7, 2, 4, 6]
    assert sizes.flatten().tolist() == [1, 1, 1, 3, 1, 1]
    assert places.tolist() == [[0, 3, 3, 3, 4, 1, 5, 2]]


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_equal_tokens_merge_without_loss(attention, pooling):
    """Patches side by side that are the same, without positions: each pair may be one token twice as heavy."""
    dense, merging = (build(merged, classifier_pooling=pooling) for merged in [(0, 0, 0), (8, 0, 0)])
    for model in (dense, merging):
        torch.nn.init.zeros_(model.snp_vit.embeddings.position_embeddings)
    merging.load_state_dict(dense.state_dict())
    merging.set_attn_implementation(attention)
    images = torch.randn(3, 3, 32, 16, generator=torch.Generator().manual_seed(2))
    images = images.unflatten(3, (2, 8)).repeat_interleave(2, dim=3).flatten(3)  # [3, 3, 32, 32]
    with torch.inference_mode():
        expected = dense(images, output_hidden_states=True, output_attentions=True)
        found = merging(images, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    for name in ("hidden_states", "attentions"):
        for state, dense_state in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(state, dense_state, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("class_name", [name for name in CLASSES if not name.startswith(NOT_MERGING)])
def test_equal_tokens_merge_without_loss_in_every_family(class_name):
    """Whatever reads the tokens - classifiers, poolers, projections, backbones - counts a group as its members."""
    dense = convert(build_source(class_name)).eval()
    for name, weight in dense.named_parameters():
        torch.nn.init.normal_(weight, std=0.3)
        if name.endswith("embeddings.position_embeddings"):
            torch.nn.init.zeros_(weight)
    blocks = [dict(block) for block in block_sizes(dense.config)]
    blocks[0]["merged_tokens"] = num_mergeable_tokens(dense.config) // 2
    config = resized_config(dense.config, blocks, stream_widths(dense.config), refits=False)
    merging = type(dense)(config).eval()
    merging.load_state_dict(dense.state_dict())
    images = inputs_for(dense, 6)
    if class_name.startswith("AST"):  # whose patches overlap: all of them are alike
        images = images[:, :1, :1].expand_as(images)
    else:
        patches = images.unflatten(3, (2, 2, 8))
        images = patches[:, :, :, :, :1].expand_as(patches).flatten(3)  # each patch beside itself
    with torch.inference_mode():
        expected, found = (tree_leaves(dict(model(images))) for model in (dense, merging))
    assert len(found) == len(expected) > 0
    for output, dense_output in zip(found, expected, strict=True):
        torch.testing.assert_close(output, dense_output, atol=1e-3, rtol=1e-3)


def test_outputs_are_of_all_tokens(pixel_values):
    model = build(model_class=SNPViTModel, use_pooler=True, num_register_tokens=2)
    output = model(pixel_values, output_hidden_states=True, output_attentions=True)
    assert output.last_hidden_state.shape == (6, 19, 16)
    assert {state.shape for state in output.hidden_states} == {(6, 19, 16)}
    for attentions in output.attentions:
        assert attentions.shape == (6, 2, 19, 19)
        torch.testing.assert_close(attentions.sum(-1), torch.ones(6, 2, 19))
    # 16 patches, of which 8 are left behind the second block.
    assert all(len(tokens.unique(dim=0)) == 3 + 8 for tokens in output.last_hidden_state)
    torch.testing.assert_close(model(pixel_values).last_hidden_state, output.last_hidden_state, atol=1e-4, rtol=1e-4)


def test_feature_maps_are_whole(pixel_values):
    model = build(model_class=SNPViTBackbone, out_features=["stage1", "stage3"])
    maps = model(pixel_values).feature_maps
    assert [feature_map.shape for feature_map in maps] == [(6, 16, 4, 4)] * 2


def test_larger_images_merge_as_many(pixel_values):
    model = build((8, 4, 0))
    images = F.interpolate(pixel_values, size=(48, 40))
    assert model(images, interpolate_pos_encoding=True).logits.shape == (6, 5)
    with pytest.raises(ValueError, match=r"merges 8 tokens, more than half of the 4 patches that reach it"):
        model(pixel_values[..., :16, :16], interpolate_pos_encoding=True)


def test_gradients_pass_through_the_means(pixel_values):
    model = build().train()
    model(pixel_values).logits.square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert all(gradient.abs().sum() > 0 for name, gradient in expected.items() if "k_proj.bias" not in name)
    model.zero_grad()
    checkpoint_activations(model)(pixel_values).logits.square().sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


def test_bfloat16(pixel_values):
    model = build()
    expected = model(pixel_values).logits
    found = model.bfloat16()(pixel_values).logits
    assert found.dtype is torch.bfloat16
    assert (found.float() - expected).norm() < 0.2 * expected.norm()


def test_attention_that_may_take_no_mask_is_refused(pixel_values):
    model = build()
    AttentionInterface.register("fast", ALL_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation("fast")
    with pytest.raises(ValueError, match="'fast' adds no biases to attention scores"):
        model(pixel_values)


@pytest.mark.parametrize(
    ("merged", "message"),
    [
        ((9, 0, 0), r"block_configs\[0\]\.merged_tokens is 9, but 16 patches reach the block"),
        ((8, 5, 0), r"block_configs\[1\]\.merged_tokens is 5, but 8 patches reach the block"),
        ((-1, 0, 0), r"block_configs\[0\]\.merged_tokens must be a positive integer, got -1"),
        ((1.5, 0, 0), r"block_configs\[0\]\.merged_tokens must be a positive integer, got 1\.5"),
    ],
)
def test_what_cannot_merge_is_refused(merged, message):
    with pytest.raises(ValueError, match=message):
        build_config(merged)


def test_a_block_that_merges_nothing_does_not_say_so():
    assert "merged_tokens" not in build_config((0, 0, 0)).to_json_string()


def test_saved_and_loaded(tmp_path, pixel_values):
    model = build()
    model.save_pretrained(tmp_path)
    loaded = SNPViTForImageClassification.from_pretrained(tmp_path).eval()
    assert [block.get("merged_tokens") for block in loaded.config.block_configs] == [5, 3, None]
    assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)

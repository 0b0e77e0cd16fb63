"""The pruned model is the dense one with the other neurons masked."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.conversion import convert
from optimum_snp.reshaping import select_neurons
from tests.helpers import SOURCE_CLASSES, build_source


def masked(model, plan):
    """A dense model in which every neuron that the plan drops is zeroed by a hook; norms see kept channels."""

    def zero_but(kept, size):
        mask = torch.zeros(size)
        mask[kept] = 1
        return mask

    def hook(module, mask):
        module.register_forward_hook(lambda _module, _inputs, output: output * mask)

    for layer, block in zip(model.base_model.layers, plan.blocks, strict=True):
        before = block.before
        for names, heads, size in (
            (("q_proj", "k_proj"), block.query_key, before["qk_head_dim"]),
            (("v_proj",), block.value, before["v_head_dim"]),
        ):
            mask = torch.cat([zero_but(kept, size) for kept in heads])
            for name in names:
                hook(getattr(layer.attention, name), mask)
        hook(layer.mlp.activation_fn, zero_but(block.mlp, before["intermediate_size"]))
    if plan.widths[0].after < plan.widths[0].before:
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(norm_over(plan.widths[0].kept))
    return model


def norm_over(kept):
    """Layer norm over the kept channels; what reads the stream sees zeros elsewhere."""

    def replace(module, inputs, _output):
        output = torch.zeros_like(inputs[0])
        output[..., kept] = F.layer_norm(
            inputs[0][..., kept], (len(kept),), module.weight[kept], module.bias[kept], module.eps
        )
        return output

    return replace


def plan_for(model, pixel_values, **shares):
    pruner = SNPPruner.from_pretrained(model)
    pruner.calibrate(pixel_values, num_samples=len(pixel_values))
    return pruner.plan(SNPConfig(method="snp", **shares))


@pytest.mark.parametrize(
    "shares",
    [
        {"qk_sparsity": 0.5},
        {"v_sparsity": 0.3},
        {"mlp_sparsity": 0.7},
        {"hidden_sparsity": 0.25},
        {"qk_sparsity": [0.9, 0.0, 0.4], "v_sparsity": [0.0, 0.99, 0.5], "mlp_sparsity": 0.5, "hidden_sparsity": 0.5},
    ],
)
@pytest.mark.parametrize("class_name", SOURCE_CLASSES)
def test_equals_the_masked_dense_model(class_name, shares, pixel_values):
    model = convert(build_source(class_name, attn_implementation="eager"))
    plan = plan_for(model, pixel_values, **shares)
    pruned = select_neurons(model, plan)
    with torch.inference_mode():
        actual = pruned(pixel_values, output_attentions=True)
        expected = masked(model, plan)(pixel_values, output_attentions=True)
    if class_name.endswith("Model"):  # the hidden states of the masked model keep their width
        torch.testing.assert_close(
            actual.last_hidden_state, expected.last_hidden_state[..., plan.widths[0].kept], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(actual.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(actual.logits, expected.logits, atol=1e-5, rtol=1e-5)
    for one, other in zip(actual.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


shares = st.floats(0, 0.99)


@given(
    qk=st.lists(shares, min_size=2, max_size=2),
    v=st.lists(shares, min_size=2, max_size=2),
    mlp=st.lists(shares, min_size=2, max_size=2),
    hidden=shares,
    heads=st.sampled_from([1, 2, 3]),
    bias=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_sizes_equal_the_masked_dense_model(qk, v, mlp, hidden, heads, bias):
    images = torch.randn(2, 3, 16, 16)
    source = build_source(
        "ViTForImageClassification",
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=30,
        image_size=16,
        qkv_bias=bias,
    )
    model = convert(source)
    plan = plan_for(model, images, qk_sparsity=qk, v_sparsity=v, mlp_sparsity=mlp, hidden_sparsity=hidden)
    with torch.inference_mode():
        actual = select_neurons(model, plan)(images).logits
        torch.testing.assert_close(actual, masked(model, plan)(images).logits, atol=1e-5, rtol=1e-5)


def test_nothing_to_prune_gives_the_same_model(source, pixel_values):
    model = convert(source)
    pruned = select_neurons(model, plan_for(model, pixel_values))
    assert torch.equal(pruned(pixel_values).logits, model(pixel_values).logits)


def test_scale_of_the_scores_stays(source, pixel_values):
    model = convert(source)
    pruned = select_neurons(model, plan_for(model, pixel_values, qk_sparsity=0.5))
    assert [layer.attention.scaling for layer in pruned.base_model.layers] == [12**-0.5] * 3


def test_dense_model_stays_whole(source, pixel_values):
    model = convert(source)
    before = model(pixel_values).logits
    pruned = select_neurons(model, plan_for(model, pixel_values, mlp_sparsity=0.5, hidden_sparsity=0.1))
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert torch.equal(model(pixel_values).logits, before)


def test_dtype_and_labels_stay(pixel_values):
    source = build_source("ViTForImageClassification", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    model = convert(source).to(torch.bfloat16)
    pruned = select_neurons(model, plan_for(model, pixel_values, mlp_sparsity=0.5))
    assert pruned.dtype == torch.bfloat16
    assert pruned.config.id2label == {0: "a", 1: "b"}

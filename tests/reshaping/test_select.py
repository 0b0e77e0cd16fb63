"""The pruned model is the dense one with the other neurons masked."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.methods import METHODS, method_of
from optimum_snp.structure import describe
from tests.helpers import SOURCE_CLASSES, SWIN_CLASSES, build_source


def masked(model, plan):
    """A dense model in which every neuron that the plan drops is zeroed by a hook; norms see kept channels."""

    def zero_but(kept, size):
        mask = torch.zeros(size)
        mask[kept] = 1
        return mask

    def hook(module, mask):
        module.register_forward_hook(lambda _module, _inputs, output: output * mask)

    structure = describe(model)
    for layer, block in zip((block.module for block in structure.blocks), plan.blocks, strict=True):
        if block.after is None:
            layer.register_forward_hook(lambda _module, inputs, outputs: (inputs[0], *outputs[1:]))
            continue
        before = block.before
        for names, heads, size in (
            (("q_proj", "k_proj"), block.query_key, before["qk_head_dim"]),
            (("v_proj",), block.value, before["v_head_dim"]),
        ):
            neurons = dict(zip(block.heads, heads, strict=True))
            mask = torch.cat([zero_but(neurons.get(h, []), size) for h in range(before["num_attention_heads"])])
            for name in names:
                hook(getattr(layer.attention, name), mask)
        hook(layer.mlp.activation_fn, zero_but(block.mlp, before["intermediate_size"]))
    for stream, width in zip(structure.streams, plan.widths, strict=True):
        if width.after < width.before:
            for name, repeats in [(name, 1) for name in stream.scales] + [(n.name, n.repeats) for n in stream.norms]:
                model.get_submodule(name).register_forward_hook(norm_over(width.kept, repeats))
    return model


def norm_over(kept, repeats):
    """Layer norm over the kept channels, of tokens that lie side by side; what reads it sees zeros elsewhere."""

    def channels_of(tensor):
        return tensor.unflatten(-1, (repeats, -1))[..., kept]

    def replace(module, inputs, _output):
        states, weight, bias = (channels_of(tensor) for tensor in (inputs[0], module.weight, module.bias))
        output = torch.zeros_like(inputs[0])
        normed = F.layer_norm(states, states.shape[-2:], weight, bias, module.eps)
        output.unflatten(-1, (repeats, -1))[..., kept] = normed
        return output

    return replace


def assert_same_outputs(actual, expected, plan):
    """The masked model's streams keep their widths, so its features are compared on the kept channels."""
    kept = [width.kept for width in plan.widths]
    swin = len(kept) > 1

    def close(one, other):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

    if "logits" in actual:
        close(actual.logits, expected.logits)
    elif "feature_maps" in actual:  # the stem's belongs to the first stage
        for one, other, channels in zip(actual.feature_maps, expected.feature_maps, [kept[0], *kept], strict=True):
            close(one, other[:, channels])
    else:
        close(actual.last_hidden_state, expected.last_hidden_state[..., kept[-1]])
        # The pooler of a Swin is a mean.
        close(actual.pooler_output, expected.pooler_output[..., kept[-1]] if swin else expected.pooler_output)
    if actual.attentions:
        blocks = plan.blocks
        if swin:  # gives away the maps of the last block of every stage
            blocks = [[block for block in blocks if block.stage == stage][-1] for stage in range(len(plan.widths))]
        pairs = zip(expected.attentions, blocks, strict=True)
        maps = [None if block.after is None else other[:, block.heads] for other, block in pairs]
        if not swin:
            maps = [other for other in maps if other is not None]
        for one, other in zip(actual.attentions, maps, strict=True):
            if other is not None:
                close(one, other)


def plan_for(model, pixel_values, **shares):
    pruner = SNPPruner.from_pretrained(model)
    pruner.calibrate(pixel_values, num_samples=len(pixel_values))
    return pruner.plan(SNPConfig(method="snp", **shares))


EACH_PART = [
    {"qk_sparsity": 0.5},
    {"v_sparsity": 0.3},
    {"mlp_sparsity": 0.7},
    {"hidden_sparsity": 0.25},
]
WHOLE = [
    {"head_sparsity": 0.5},
    {"dropped_blocks": 2},
    {"head_sparsity": 0.3, "dropped_blocks": [0], "qk_sparsity": 0.5, "v_sparsity": 0.3, "hidden_sparsity": 0.25},
]
UNEVEN = {"qk_sparsity": [0.9, 0.0, 0.4], "v_sparsity": [0.0, 0.99, 0.5], "mlp_sparsity": 0.5, "hidden_sparsity": 0.5}
SECOND_STAGE = {"hidden_sparsity": [0.0, 0.9]}
UNEVEN_STAGES = {
    "qk_sparsity": [[0.9, 0.0], [0.4, 0.99, 0.2]],
    "v_sparsity": [0.0, 0.99, 0.5, 0.1, 0.3],
    "mlp_sparsity": [[0.5, 0.99], [0.0, 0.3, 0.7]],
    "hidden_sparsity": [0.5, 0.3],
}


@pytest.mark.parametrize(
    ("class_name", "shares"),
    [(name, shares) for name in SOURCE_CLASSES for shares in (*EACH_PART, *WHOLE, UNEVEN)]
    + [
        (name, shares)
        for name in SWIN_CLASSES
        for shares in (*EACH_PART, *WHOLE, {"hidden_sparsity": [0, 0.9]}, UNEVEN_STAGES)
    ],
)
def test_equals_the_masked_dense_model(class_name, shares, pixel_values):
    options = {"out_features": ["stem", "stage1", "stage2"]} if class_name == "SwinBackbone" else {}
    model = convert(build_source(class_name, attn_implementation="eager", **options))
    plan = plan_for(model, pixel_values, **shares)
    pruned = method_of(plan.config).reshape(model, plan)
    with torch.inference_mode():
        actual = pruned(pixel_values, output_attentions=True)
        expected = masked(model, plan)(pixel_values, output_attentions=True)
    assert actual.attentions
    assert_same_outputs(actual, expected, plan)


shares = st.floats(0, 0.99)


@given(
    qk=st.lists(shares, min_size=2, max_size=2),
    v=st.lists(shares, min_size=2, max_size=2),
    mlp=st.lists(shares, min_size=2, max_size=2),
    hidden=shares,
    heads=st.sampled_from([1, 2, 3]),
    bias=st.booleans(),
    head=st.lists(shares, min_size=2, max_size=2),
    dropped=st.sampled_from([0, 1, [0], [1]]),
)
@settings(max_examples=25, deadline=None)
def test_any_sizes_equal_the_masked_dense_model(qk, v, mlp, hidden, heads, bias, head, dropped):
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
    sparsity = {"qk_sparsity": qk, "v_sparsity": v, "mlp_sparsity": mlp, "hidden_sparsity": hidden}
    plan = plan_for(model, images, head_sparsity=head, dropped_blocks=dropped, **sparsity)
    with torch.inference_mode():
        actual = method_of(plan.config).reshape(model, plan)(images).logits
        torch.testing.assert_close(actual, masked(model, plan)(images).logits, atol=1e-5, rtol=1e-5)


@st.composite
def swins(draw):
    """Options of a Swin of one to three stages, and images that neither patches nor windows need to divide."""
    num_stages = draw(st.integers(1, 3))
    depths = draw(st.lists(st.integers(1, 2), min_size=num_stages, max_size=num_stages))
    part = st.lists(shares, min_size=sum(depths), max_size=sum(depths))
    options = {
        "embed_dim": 4,
        "depths": depths,
        "num_heads": [draw(st.sampled_from([1, 2, 4])) for _ in depths],
        "window_size": draw(st.integers(1, 4)),
        "patch_size": draw(st.integers(1, 3)),
        "image_size": draw(st.integers(6, 15)),
        "qkv_bias": draw(st.booleans()),
        "use_absolute_embeddings": draw(st.booleans()),
    }
    if options["use_absolute_embeddings"]:  # one for each whole patch
        options["image_size"] -= options["image_size"] % options["patch_size"]
    if draw(st.booleans()):
        options["out_features"] = ["stem", *(f"stage{stage + 1}" for stage in range(num_stages))]
    sparsity = {f"{name}_sparsity": draw(part) for name in ("qk", "v", "mlp", "head")}
    sparsity["dropped_blocks"] = draw(st.integers(0, sum(depths) - num_stages))
    sparsity["hidden_sparsity"] = draw(st.lists(shares, min_size=num_stages, max_size=num_stages))
    return options, sparsity, (draw(st.integers(3, 19)), draw(st.integers(3, 19)))


@given(swins())
@settings(max_examples=25, deadline=None)
def test_any_swin_equals_the_masked_dense_model(swin):
    options, sparsity, size = swin
    class_name = "SwinBackbone" if "out_features" in options else "SwinForImageClassification"
    model = convert(build_source(class_name, **options))
    plan = plan_for(model, torch.randn(2, 3, options["image_size"], options["image_size"]), **sparsity)
    assert [width.after for width in plan.widths] == method_of(plan.config).reshape(model, plan).config.hidden_sizes
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        actual = method_of(plan.config).reshape(model, plan)(images, interpolate_pos_encoding=True)
        expected = masked(model, plan)(images, interpolate_pos_encoding=True)
    assert_same_outputs(actual, expected, plan)


def test_nothing_to_prune_gives_the_same_model(source, pixel_values):
    model = convert(source)
    pruned = METHODS["snp"].reshape(model, plan_for(model, pixel_values))
    assert torch.equal(pruned(pixel_values).logits, model(pixel_values).logits)


def test_scale_of_the_scores_stays(source, pixel_values):
    model = convert(source)
    pruned = METHODS["snp"].reshape(model, plan_for(model, pixel_values, qk_sparsity=0.5))
    assert [layer.attention.scaling for layer in pruned.base_model.layers] == [12**-0.5] * 3


def test_dense_model_stays_whole(source, pixel_values):
    model = convert(source)
    before = model(pixel_values).logits
    pruned = METHODS["snp"].reshape(model, plan_for(model, pixel_values, mlp_sparsity=0.5, hidden_sparsity=0.1))
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    assert torch.equal(model(pixel_values).logits, before)


def test_dtype_and_labels_stay(pixel_values):
    source = build_source("ViTForImageClassification", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    model = convert(source).to(torch.bfloat16)
    pruned = METHODS["snp"].reshape(model, plan_for(model, pixel_values, mlp_sparsity=0.5))
    assert pruned.dtype == torch.bfloat16
    assert pruned.config.id2label == {0: "a", 1: "b"}

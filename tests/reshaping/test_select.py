"""The pruned model is the dense one with the other neurons masked."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.methods import METHODS, method_of
from tests.helpers import build_source
from tests.masked import assert_same_outputs, masked


def plan_for(model, pixel_values, **shares):
    pruner = SNPPruner.from_pretrained(model)
    pruner.calibrate(pixel_values, num_samples=len(pixel_values))
    return pruner.plan(SNPConfig(method="snp", **shares))


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
@example(
    (
        {
            "embed_dim": 4,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
            "patch_size": 1,
            "image_size": 7,
            "qkv_bias": True,
            "use_absolute_embeddings": False,
            "out_features": ["stem", "stage1", "stage2"],
        },
        {
            "qk_sparsity": [0.0, 0.0],
            "v_sparsity": [0.0, 0.25],
            "mlp_sparsity": [0.0, 0.0],
            "head_sparsity": [0.0, 0.0],
            "dropped_blocks": 0,
            "hidden_sparsity": [0.5, 0.75],
        },
        (7, 3),
    )
)
@settings(max_examples=15, deadline=None)
def test_any_swin_equals_the_masked_dense_model(swin):
    options, sparsity, size = swin
    class_name = "SwinBackbone" if "out_features" in options else "SwinForImageClassification"
    model = convert(build_source(class_name, **options))
    plan = plan_for(model, torch.randn(2, 3, options["image_size"], options["image_size"]), **sparsity)
    assert [width.after for width in plan.widths] == method_of(plan.config).reshape(model, plan).config.hidden_sizes
    model.double()  # a norm over two channels makes much of what float32 rounds
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        actual = method_of(plan.config).reshape(model, plan)(images, interpolate_pos_encoding=True)
        expected = masked(model, plan)(images, interpolate_pos_encoding=True)
    assert_same_outputs(actual, expected, plan, model)


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

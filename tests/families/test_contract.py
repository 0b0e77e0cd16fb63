"""What every family of the registry keeps: exact conversion, counted costs, masked neurons, sizes and budgets."""

import copy
import inspect

import pytest
import torch

from optimum_snp import SNPConfig
from optimum_snp.families import convert
from optimum_snp.methods import METHODS, method_of
from optimum_snp.plan.sizes import NEURON_PARTS, Part
from optimum_snp.planning.size_costs import SizeCosts
from optimum_snp.structure import block_sizes, describe, stream_widths
from optimum_snp.structure.costs import count_macs, count_parameters, skeleton
from tests.families.cases import CASES, PARAMS, SHARES, first_of_each_family
from tests.masked import assert_same_outputs, masked


@pytest.fixture(scope="module", params=PARAMS)
def case(request):
    """One source of a family; tests of one stand together, so that it is built and calibrated once."""
    return request.param


def outputs_of(model, images, **options):
    """All outputs, tuples taken apart, by name."""
    with torch.inference_mode():
        return by_name(model(images, **options))


def outputs_of_source(case, source, images, **options):
    """The same of a source, as its family says that it reads images."""
    with torch.inference_mode():
        return by_name(case.family.source_outputs(source, images, **options))


def by_name(outputs):
    tensors = {}
    for name, value in outputs.items():
        tensors |= (
            {f"{name}.{index}": one for index, one in enumerate(value)} if isinstance(value, tuple) else {name: value}
        )
    return tensors


def assert_close(actual, expected, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_conversion_is_exact(case):
    source = case.source(attn_implementation="eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    expected = outputs_of_source(case, source, case.images, **options)
    assert_close(outputs_of(case.model, case.images, **options), expected)


def test_conversion_is_exact_with_fused_attention(case):
    has_fused = case.family.source_class(case.class_name)._supports_sdpa
    source = case.source(attn_implementation="sdpa" if has_fused else "eager")
    if not has_fused:  # which rounds in another way; raw feature maps show it
        source = source.double()
    images, model = case.images.to(source.dtype), convert(source)
    assert model.config._attn_implementation == "sdpa"
    assert_close(outputs_of(model, images), outputs_of_source(case, source, images))


@pytest.mark.parametrize("size", [(48, 64), (40, 24)])
def test_conversion_is_exact_on_other_image_sizes(case, size):
    source = copy.deepcopy(case.source())  # small images change the windows of a Swin of transformers
    tower = getattr(source, "vision_model", source)  # a classifier of CLIP passes on what it does not name itself
    can_be_asked = "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
    options = {"interpolate_pos_encoding": True} if can_be_asked else {}
    if case.family.title == "AST":
        pytest.skip("AST of transformers reads spectrograms of one shape only")
    images = torch.randn(2, 3, *size)
    assert_close(outputs_of(case.model, images, **options), outputs_of_source(case, source, images, **options))


@pytest.mark.parametrize("case", first_of_each_family(CASES))
@pytest.mark.parametrize("method", METHODS)
def test_nothing_removed_is_the_dense_model(case, method):
    pruner = case.calibrated.copy()
    pruner.prune(SNPConfig(method=method))
    assert_close(outputs_of(pruner.model, case.images), outputs_of(case.model, case.images))


@pytest.mark.parametrize("case", first_of_each_family(CASES))
@pytest.mark.parametrize("name", SHARES)
def test_pruned_neurons_are_as_if_masked(case, name):
    if name not in case.shares():
        pytest.skip(f"the {name} of a {case.family.title} stay whole")
    plan = case.calibrated.plan(SNPConfig(method="snp", **case.shares()[name]))
    pruned = method_of(plan.config).reshape(case.model, plan)
    with torch.inference_mode():
        actual = pruned(case.images, output_attentions=True)
        expected = masked(copy.deepcopy(case.model), plan)(case.images, output_attentions=True)
    assert actual.attentions
    assert_same_outputs(actual, expected, plan, case.model)


@pytest.mark.parametrize("case", first_of_each_family(CASES))
@pytest.mark.parametrize("method", METHODS)
def test_sizes_and_costs_are_those_that_were_planned(case, method):
    for name in ("whole", "uneven"):  # all parts
        pruner = case.calibrated.copy()
        plan = pruner.plan(SNPConfig(method=method, **case.shares()[name]))
        model = pruner.prune(plan)
        assert stream_widths(model.config) == [width.after for width in plan.widths]
        assert block_sizes(model.config) == [block.after for block in plan.kept_blocks]
        assert (count_macs(model), count_parameters(model)) == (plan.macs_after, plan.parameters_after)
        for block in describe(model).blocks:
            for layer, size in (
                (block.query, block.num_attention_heads * block.qk_head_dim),
                (block.value, block.num_attention_heads * block.v_head_dim),
                (block.up, block.intermediate_size),
            ):
                assert model.get_submodule(layer).out_features == size
        assert all(torch.isfinite(value).all() for value in outputs_of(model, case.images).values())


@pytest.mark.parametrize("case", first_of_each_family(CASES))
def test_predicted_costs_are_those_of_built_models(case):
    """With method snp, which adds no biases."""
    costs = {"macs": count_macs, "parameters": count_parameters}
    predicted = {unit: SizeCosts(case.model, unit) for unit in costs}
    for shares in ({}, *case.shares().values()):
        plan = case.calibrated.plan(SNPConfig(method="snp", **shares))
        model = skeleton(type(case.model), plan.pruned_config(case.model.config))
        for unit, count in costs.items():
            assert predicted[unit].total(planned_sizes(plan)) == pytest.approx(count(model))


def planned_sizes(plan):
    """The sizes of all parts; of blocks that are dropped those of before."""
    sizes = {(Part.WIDTH, index): width.after for index, width in enumerate(plan.widths)}
    for index, block in enumerate(plan.blocks):
        sizes |= {(part, index): (block.after or block.before)[part.size_name] for part in (*NEURON_PARTS, Part.HEADS)}
        sizes[Part.BLOCK, index] = int(block.after is not None)
    return sizes


@pytest.mark.parametrize("case", first_of_each_family(CASES))
@pytest.mark.parametrize(
    ("method", "budget"),
    [("snp", "target_params"), ("snp-refit", "target_flops"), ("projection", "target_flops")],
)
def test_budgets_are_kept_and_used(case, method, budget):
    pruner = case.calibrated.copy()
    plan = pruner.plan(SNPConfig(method=method, round_to=1, **{budget: 0.6}))
    model = pruner.prune(plan)
    count = {"target_flops": count_macs, "target_params": count_parameters}[budget]
    share = count(model) / count(case.model)
    assert 0.57 < share <= 0.6


@pytest.mark.parametrize("case", first_of_each_family(CASES))
def test_heads_and_blocks_go_within_a_budget(case):
    pruner = case.calibrated.copy()
    pruner.prune(SNPConfig(target_flops=0.4, head_sparsity="auto", dropped_blocks="auto"))
    assert 0.25 < count_macs(pruner.model) / count_macs(case.model) <= 0.4
    assert all(torch.isfinite(value).all() for value in outputs_of(pruner.model, case.images).values())

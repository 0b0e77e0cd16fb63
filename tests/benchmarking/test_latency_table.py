"""Tables of latencies: linear between what was measured, kept on disk, measured again when need be."""

import itertools

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from scipy.interpolate import RegularGridInterpolator

from optimum_snp.benchmarking import block_latency
from optimum_snp.benchmarking.block_latency import latency_table
from optimum_snp.benchmarking.latency_table import Grid
from optimum_snp.families import convert
from optimum_snp.plan.sizes import Part
from optimum_snp.planning.latency_costs import LatencyCosts
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_parameters
from tests.helpers import CLASSES, build_source, random_sizes
from tests.planning.test_budget import resized


AXES = [[1, 8, 32], [1, 16], [1, 10, 20, 50]]


@pytest.fixture
def seconds():
    return np.random.default_rng(0).random([len(axis) for axis in AXES])


def test_linear_between_the_points(seconds):
    grid, expected = Grid(AXES, seconds.tolist()), RegularGridInterpolator(AXES, seconds)
    points = [torch.tensor([1.0, 3.5, 8.0, 31.0]), torch.tensor([7, 16]), torch.tensor([1, 15, 50])]
    combinations = list(itertools.product(*(axis.tolist() for axis in points)))
    np.testing.assert_allclose(grid(*points).flatten(), expected(combinations), rtol=1e-12)
    assert grid(8, 16, 20).item() == seconds[1, 1, 2]
    assert grid(8, points[1], 20).shape == (2,)


def test_constant_beyond_the_points(seconds):
    grid = Grid(AXES, seconds.tolist())
    assert grid(0, 17, 1000).item() == seconds[0, 1, 3]
    assert Grid([[4]], [0.5])(torch.tensor([1, 4, 9])).tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("axes", "values"),
    [
        ([[1, 2]], [1.0]),
        ([[1, 2]], [[1.0, 2.0]]),
        ([[2, 1]], [1.0, 2.0]),
        ([[1, 2]], [1.0, -1.0]),
        ([[1, 2]], [1.0, float("nan")]),
        ([[1, 2]], [1.0, float("inf")]),
    ],
)
def test_a_grid_that_is_none(axes, values):
    with pytest.raises(ValueError, match="latency table"):
        Grid(axes, values)


@pytest.fixture
def stopwatch(monkeypatch, tmp_path):
    """Every module takes a second per parameter; tells how many were timed in each measurement."""
    timed = []

    def time_in_turn(modules, *_, **__):
        timed.append(len(modules))
        return {key: float(count_parameters(module)) for key, module in modules.items()}

    monkeypatch.setattr(block_latency, "time_in_turn", time_in_turn)
    monkeypatch.setattr(block_latency, "prepare", lambda modules, *_: {key: m for key, (m, _) in modules.items()})
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    return timed


# Of the classes those that have most of what others have.
UNLIKE = ("ViTForImageClassification", "Dinov2WithRegistersBackbone", "CLIPModel", "SwinForImageClassification")


def measure(model, **options):
    return latency_table(model, **{"backend": "eager", "batch_size": 1, "num_threads": 1, **options})


@pytest.mark.parametrize(
    ("class_name", "backend"),
    [pytest.param(name, "eager", marks=[] if name in UNLIKE else [pytest.mark.slow]) for name in CLASSES]
    + [(name, "onnxruntime") for name in ("ViTForImageClassification", "DeiTModel", "SwinForImageClassification")],
)
def test_the_table_adds_up_to_whole_models(class_name, backend, stopwatch):
    """What is linear in every size, as the number of parameters, is right for sizes that were not measured, too."""
    model = convert(build_source(class_name, qkv_bias=True))
    costs = LatencyCosts(model, measure(model, backend=backend))
    assert costs.total(costs.sizes) == pytest.approx(count_parameters(model))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        sizes = random_sizes(costs.sizes, model.config, generator)
        if class_name.startswith("Swin"):  # patch merging is not linear in the mean of all widths
            sizes |= {part: size for part, size in costs.sizes.items() if part[0] is Part.WIDTH}
        assert costs.total(sizes) == pytest.approx(count_parameters(resized(model, sizes)))


@pytest.fixture
def token_stopwatch(stopwatch, monkeypatch):
    """A block takes a second per parameter and token, merging one per number that it reads, the rest nothing."""

    def seconds(module, inputs):
        if isinstance(module, block_latency._MergingAlone):
            return float(inputs[0].numel())
        if isinstance(module, block_latency._Alone):
            return float(count_parameters(module) * inputs.shape[1])
        return float(sum(block.map_tokens * count_parameters(block.module) for block in describe(module).blocks))

    monkeypatch.setattr(block_latency, "prepare", lambda modules, *_: modules)
    monkeypatch.setattr(
        block_latency,
        "time_in_turn",
        lambda modules, *_, **__: {key: seconds(*module) for key, module in modules.items()},
    )


@pytest.mark.parametrize("merged", [[0, 0, 0], [8, 4, 0], [0, 5, 2]])
def test_merged_tokens_save_what_they_would_take(merged, token_stopwatch):
    """Of 18 tokens, two of which are no patches, at sizes and numbers of tokens that were not measured."""
    model = convert(build_source("DeiTModel", qkv_bias=True))
    costs = LatencyCosts(model, measure(model, merges_tokens=True), merged)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        sizes = random_sizes(costs.sizes, model.config, generator)
        expected, tokens, width = 0, 18, sizes[Part.WIDTH, 0]
        for block, count in zip(describe(resized(model, sizes)).blocks, merged, strict=True):
            mlp = 2 * width * (block.intermediate_size - 1) + block.intermediate_size - 1  # all but one neuron
            expected += tokens * (count_parameters(block.module) - mlp) + (tokens - count) * mlp
            expected += (count > 0) * tokens * 2 * width  # keys and states have one width in the dense model
            tokens -= count
        assert costs.total(sizes) == pytest.approx(expected)


def test_curves_are_those_of_whole_models(stopwatch):
    model = convert(build_source("SwinForImageClassification"))
    costs = LatencyCosts(model, measure(model))
    sizes = {part: size - 3 for part, size in costs.sizes.items()}
    for part, size in costs.sizes.items():
        candidates = torch.arange(1, size + 1)
        expected = torch.tensor([costs.total({**sizes, part: size}) for size in candidates.tolist()])
        found = costs.curve(part, candidates, sizes)
        torch.testing.assert_close(found - found[0], (expected - expected[0]).double(), rtol=1e-4, atol=1e-2)
    query_key, value = torch.tensor([1, 5, 12]), torch.tensor([2, 7])
    found = costs.attention(3, query_key, value, sizes, padded=True)
    for row, column in itertools.product(range(3), range(2)):
        pair = {(Part.QUERY_KEY, 3): int(query_key[row]), (Part.VALUE, 3): int(value[column])}
        first = {(Part.QUERY_KEY, 3): 1, (Part.VALUE, 3): 2}
        expected = costs.total(sizes | pair) - costs.total(sizes | first)
        assert float(found[row, column] - found[0, 0]) == pytest.approx(expected)


def test_smaller_sizes_never_take_longer():
    grid = block_latency._grid([[1, 8, 16], [1, 2]], torch.tensor([[5.0, 4.0], [2.0, 3.0], [7.0, -1.0]]))
    assert grid.seconds == [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    grid = block_latency._grid([[1, 8, 16]], torch.tensor([5.0, 2.0, 7.0]))
    assert grid.seconds == [2.0, 2.0, 7.0]


def test_a_table_is_measured_once(stopwatch, tmp_path):
    model = convert(build_source("ViTForImageClassification"))
    first = measure(model)
    assert measure(convert(build_source("ViTForImageClassification", num_labels=5))) == first
    assert len(stopwatch) == 1
    [path] = (tmp_path / "hf" / "optimum_snp" / "latency").iterdir()
    assert path.suffix == ".json"


@pytest.mark.parametrize(
    "change", [{"batch_size": 2}, {"num_threads": 2}, {"backend": "onnxruntime"}, {"mlp": 104}, {"image_size": 40}]
)
def test_what_changes_latency_is_measured_anew(change, stopwatch):
    model = convert(build_source("ViTForImageClassification"))
    measure(model)
    shape = {"intermediate_size": change.pop("mlp")} if "mlp" in change else {}
    shape |= {"image_size": change.pop("image_size")} if "image_size" in change else {}
    measure(convert(build_source("ViTForImageClassification", **shape)), **change)
    assert len(stopwatch) == 2


def test_compiled_models_use_the_table_of_eager_ones(stopwatch):
    model = convert(build_source("ViTForImageClassification"))
    assert measure(model) == measure(model, backend="compile")
    assert len(stopwatch) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", "not JSON", None])
def test_a_table_that_cannot_be_read_is_measured_again(content, stopwatch, tmp_path, caplog):
    model = convert(build_source("ViTForImageClassification"))
    first = measure(model)
    [path] = (tmp_path / "hf" / "optimum_snp" / "latency").iterdir()
    text = path.read_text()
    path.write_text(text.replace("[1, ", "[9999, ", 1) if content is None else content)
    assert measure(model) == first
    assert len(stopwatch) == 2
    assert "holds no latencies that can be read" in caplog.text
    assert path.read_text() == text


def test_a_folder_that_cannot_be_written_costs_only_time(stopwatch, tmp_path, caplog):
    (tmp_path / "hf").write_text("a file")
    measure(convert(build_source("ViTForImageClassification")))
    assert "are not kept, and will be measured again" in caplog.text


@pytest.mark.parametrize(
    ("class_name", "backend"),
    [
        ("ViTForImageClassification", "eager"),
        ("SwinForImageClassification", "eager"),
        ("ViTForImageClassification", "onnxruntime"),
        ("ViTForImageClassification", "openvino"),
    ],
)
def test_real_times(class_name, backend, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(block_latency, "_POINTS", {backend: (2, 2)})
    monkeypatch.setattr(block_latency, "_NUM_RUNS", 1)
    model = convert(build_source(class_name))
    costs = LatencyCosts(model, measure(model, backend=backend))
    assert 0 < costs.total(dict.fromkeys(costs.sizes, 1)) <= costs.total(costs.sizes) < 10

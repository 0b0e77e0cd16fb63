"""Models side by side on several backends."""

import os
import shutil

import numpy as np
import pytest
import torch
import transformers
from matplotlib.image import imread

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.benchmarking import benchmark as module
from optimum_snp.benchmarking.benchmark import benchmark
from optimum_snp.benchmarking.benchmark_report import BenchmarkReport, Row, quartiles
from optimum_snp.benchmarking.contender import Contender
from optimum_snp.benchmarking.memory import MemoryProbe
from optimum_snp.benchmarking.plot import plot_benchmark
from optimum_snp.exporting.exported import Check, ExportedModel
from tests.helpers import build_source


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A dense checkpoint, the model pruned from it, and that as an int8 export."""
    folder = tmp_path_factory.mktemp("models")
    images = torch.randn(6, 3, 32, 32)
    source = build_source("ViTForImageClassification", num_hidden_layers=1)
    source.save_pretrained(folder / "dense")
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.5, method="snp"), calibration_dataset=images)
    pruner.save_pretrained(folder / "small")
    pruner.export(folder / "small-int8", format="openvino", dtype="int8", calibration_dataset=images)
    return {name: folder / name for name in ("dense", "small", "small-int8")}


def test_every_model_on_every_backend_in_turn(models, monkeypatch):
    timed = []

    def time_in_turn(calls, _stopwatch, *, num_runs, num_warmup, summary):
        timed.append([(each.model, each.backend) for each in calls])
        for call in calls.values():
            call()
        return {each: summary([number + 1.0] * num_runs) for number, each in enumerate(calls)}

    monkeypatch.setattr(module, "time_in_turn", time_in_turn)
    threads = torch.get_num_threads()
    backends = ["eager", "onnxruntime", "openvino"]
    settings = {"batch_sizes": [1, 2], "threads": [1, 2], "precisions": ["fp32", "bf16"], "num_runs": 2}
    chosen = {name: models[name] for name in ("dense", "small-int8")}
    report = benchmark(chosen, backends=backends, memory=False, **settings)
    assert torch.get_num_threads() == threads
    expected = [
        ("dense", backend, dtype, precision)
        for backend in backends
        for dtype, precision in (("fp32", "fp32"), ("bf16", "bf16"))
        if (backend, precision) != ("onnxruntime", "bf16")
    ] + [("small-int8", "openvino", "int8", "fp32"), ("small-int8", "openvino", "int8", "bf16")]
    assert [each[:2] for each in expected] * 4 == [each for setting in timed for each in setting]
    assert [(row.model, row.backend, row.dtype, row.precision) for row in report.rows] == expected * 4
    assert [(row.threads, row.batch_size) for row in report.rows[:: len(expected)]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for number, row in enumerate(report.rows):
        place = number % len(expected) + 1
        assert (row.seconds, row.speed_up) == (place, 1 / place)
        assert row.images_per_second == row.batch_size / place
    assert report.machine["versions"].keys() >= {"torch", "transformers", "onnxruntime", "openvino"}
    assert report.machine["cores"] == os.cpu_count()


def test_speed_ups_beyond_the_flops_are_warned_of(models, monkeypatch, caplog):
    seconds = {"dense": 100.0, "small": 1.0}
    monkeypatch.setattr(
        module,
        "time_in_turn",
        lambda calls, _, *, summary, **__: {each: summary([seconds[each.model]]) for each in calls},
    )
    chosen = {name: models[name] for name in ("dense", "small")}
    benchmark(chosen, batch_sizes=[1], num_runs=1, memory=False)
    [message] = [message for message in caplog.messages if "times as fast" in message]
    assert message.startswith("small on eager was measured 100 times as fast")


@pytest.mark.slow
def test_compiled_models(models):
    report = benchmark({"dense": models["dense"]}, backends=["compile"], batch_sizes=[1], num_runs=2, memory=False)
    assert 0 < report.rows[0].first_quartile <= report.rows[0].seconds <= report.rows[0].third_quartile < 10


def test_a_dense_checkpoint_runs_in_code_of_transformers(models):
    cpu = torch.device("cpu")
    dense, small = (
        Contender(name, "eager", str(models[name]), "bf16", "bf16").load(cpu) for name in ("dense", "small")
    )
    assert type(dense) is transformers.ViTForImageClassification
    assert type(small).__name__ == "SNPViTForImageClassification"
    assert dense.dtype == small.dtype == torch.bfloat16


def test_peak_memory_is_that_of_the_model_alone(tmp_path):
    folders = {}
    for size in (48, 384):
        folders[size] = tmp_path / str(size)
        build_source("ViTForImageClassification", hidden_size=size, intermediate_size=4 * size).save_pretrained(
            folders[size]
        )
    with MemoryProbe() as probe:
        small, large = (
            probe.measure(Contender("a", "eager", str(folders[size]), "fp32", "fp32"), 1, 1) for size in (48, 384)
        )
        assert probe.measure(Contender("none", "eager", str(tmp_path / "none"), "fp32", "fp32"), 1, 1) is None
    weights = sum(path.stat().st_size for path in folders[384].glob("*.safetensors"))
    assert weights == pytest.approx(21.5e6, rel=0.05)
    assert small > 0
    assert 0.8 * weights < large - small < 2 * weights


def test_without_its_helper_memory_is_left_out(caplog, monkeypatch):
    monkeypatch.setattr("sys.executable", shutil.which("true"))  # ends at once
    with MemoryProbe() as probe:
        probe._helper.wait()
        assert [probe.measure(Contender("a", "eager", "", "fp32", "fp32"), 1, 1) for _ in range(2)] == [None, None]
    assert "The peak memory of a on eager could not be measured" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ["tflite"]}, "A backend must be one of 'eager', .* got 'tflite'"),
        ({"precisions": ["fp8"]}, "A precision must be one of 'fp32', 'bf16', got 'fp8'"),
        ({"batch_sizes": [1, 0]}, "batch_sizes must be 1 or more, got 1, 0"),
        ({"threads": []}, "threads must be 1 or more, got none"),
        ({"num_runs": 0}, "num_runs must be 1 or more, got 0"),
        ({"device": "cuda"}, "There is no 'cuda': PyTorch finds no GPU"),
        ({"device": "mps"}, "device must be 'cpu' or a GPU such as 'cuda', got 'mps'"),
        ({"device": "gpu"}, "device must be 'cpu' or a GPU such as 'cuda', got 'gpu'"),
        ({"backends": ["onnxruntime"], "precisions": ["bf16"]}, "nothing to measure"),
        ({"models": {}}, "nothing to measure"),
    ],
)
def test_mistakes_are_named_before_loading(options, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        benchmark(**{"models": {"a": "/no/such/model"}, **options})


def test_all_models_are_looked_for_before_the_first_is_loaded(models, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_source", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"has no config\.json"):
        benchmark({"a": models["dense"], "b": tmp_path}, backends=["openvino"])


def test_an_export_for_onnx_runtime_has_no_bf16(tmp_path):
    check = Check(1, 0.0, 0.0, None)
    ExportedModel("onnx", "int8", "model.onnx", 20, [3, 32, 32], ["logits"], {}, check).save(tmp_path)
    with pytest.raises(ValueError, match="nothing to measure"):
        benchmark({"a": tmp_path}, backends=["openvino"], precisions=["bf16"])


def test_quartiles():
    times = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    assert quartiles(times) == pytest.approx(tuple(np.percentile(times, [25, 50, 75])))
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


@pytest.fixture
def report():
    rows = []
    for batch_size in (1, 8):
        for model, backend, dtype, seconds in (("a", "eager", "fp32", 0.02), ("b", "openvino", "int8", 0.005)):
            contender = Contender(model, backend, "", "fp32", dtype)
            spread = 0.9 * seconds, seconds, 1.1 * seconds
            rows.append(Row.of(contender, batch_size, 2, spread, 0.02, 5_000_000 if model == "a" else None))
    machine = {"processor": "CPU", "cores": 2, "system": "Linux", "load": 0.5, "versions": {"torch": "2.13"}}
    return BenchmarkReport(rows, machine)


def test_the_table(report):
    text = str(report)
    assert text.count("**Batch ") == 2
    assert "| a | eager | fp32 | 20.00 | 18.00 to 22.00 | 50.0 | 1.00 | 5 MB |" in text
    assert "| b | openvino | int8 | 5.00 | 4.50 to 5.50 | 1600.0 | 4.00 |  |" in text
    assert text.endswith("CPU, 2 CPU cores, load 0.5 at the end; Linux; torch 2.13.")


def test_the_picture(report, tmp_path):
    plot_benchmark(report, tmp_path / "speed.png")
    assert imread(tmp_path / "speed.png").std() > 0.05

"""Exported models compute what they compute in PyTorch, and nothing else is ever written."""

import json

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from transformers import AutoImageProcessor

from optimum_snp import SNPConfig, SNPPruner, packages
from optimum_snp.exporting import export
from tests.helpers import build_source


ALLOWED = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.15}


def build(class_name):
    """As small as can be: exporting takes a second per block."""
    is_swin = class_name.startswith("Swin")
    return build_source(class_name, **({"depths": [1, 1]} if is_swin else {"num_hidden_layers": 1}))


@pytest.fixture
def pruner(image_processor):
    return SNPPruner.from_pretrained(build("ViTForImageClassification"), image_processor=image_processor)


def run(folder, images):
    """Runs a folder with the runtime's own interface."""
    path = folder / "model.onnx"
    if path.is_file():
        return onnxruntime.InferenceSession(path).run(None, {"pixel_values": images.numpy()})
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return list(openvino.compile_model(folder / "openvino_model.xml", "CPU", settings)(images.numpy()).values())


@pytest.mark.parametrize(
    ("class_name", "format", "dtype"),
    [
        ("ViTModel", "onnx", "fp32"),
        ("ViTForImageClassification", "onnx", "int8"),
        ("DeiTForImageClassificationWithTeacher", "openvino", "fp32"),
        ("SwinForImageClassification", "onnx", "fp16"),
        ("SwinForImageClassification", "openvino", "int8"),  # crashed OpenVINO with NNCF's default ranges
        ("SwinBackbone", "openvino", "fp16"),
    ],
)
def test_outputs_are_those_of_pytorch(class_name, format, dtype, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(build(class_name))
    pruner.calibrate(pixel_values, num_samples=6)
    shares = SNPConfig(qk_sparsity=0.5, v_sparsity=0.3, mlp_sparsity=0.5, hidden_sparsity=0.2, method="snp")
    model = pruner.prune(shares)
    exported = pruner.export(tmp_path / "out", format=format, dtype=dtype, calibration_dataset=pixel_values)
    images = torch.randn(17, 3, 32, 32, generator=torch.Generator().manual_seed(2))  # which the export has not seen
    with torch.inference_mode():
        outputs = model(images)
    if class_name == "SwinBackbone":
        outputs = {f"feature_maps.{index}": value for index, value in enumerate(outputs.feature_maps)}
    assert exported.outputs == list(outputs)
    batches = [run(tmp_path / "out", images[:1]), run(tmp_path / "out", images[1:])]
    for one, other, value in zip(*batches, outputs.values(), strict=True):
        assert one.dtype == other.dtype == np.float32
        error = np.linalg.norm(np.concatenate([one, other]) - value.numpy()) / np.linalg.norm(value.numpy())
        assert error < ALLOWED[dtype]
        assert dtype == "fp32" or error > ALLOWED["fp32"]  # else it is no less precise than it should be
    assert 0 < exported.check.relative_error < ALLOWED[dtype]
    assert exported.check.num_images == 6
    assert model.config._attn_implementation == "sdpa"


def test_a_folder_says_what_it_holds(pruner, tmp_path):
    pruner.model.config._name_or_path = str(tmp_path / "private")
    pruner.model.to(torch.bfloat16)  # a graph is made in float32 all the same
    exported = pruner.export(tmp_path / "out", opset=18)
    assert pruner.model.dtype == torch.bfloat16
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.onnx", "preprocessor_config.json", "snp_export.json",
    ]  # fmt: skip
    config, said = (json.loads((tmp_path / "out" / name).read_text()) for name in ("config.json", "snp_export.json"))
    assert config["id2label"] == {str(index): f"LABEL_{index}" for index in range(5)}
    assert config["architectures"] == ["SNPViTForImageClassification"]
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size == pruner.image_processor.size
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [18] == [said["opset"]]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert said["outputs"] == ["logits"]
    assert said["check"]["largest_difference"] == exported.check.largest_difference
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        assert b"optimum_snp/" not in path.read_bytes()


@pytest.mark.slow
def test_models_that_merge_tokens_become_int8(pixel_values, tmp_path):
    pruner = SNPPruner(build("ViTForImageClassification"))
    pruner.prune(SNPConfig(method="snp", token_sparsity=0.3), calibration_dataset=pixel_values)
    exported = pruner.export(tmp_path / "out", dtype="int8", calibration_dataset=pixel_values)
    assert 0 < exported.check.relative_error < ALLOWED["int8"]


def test_linear_layers_and_nothing_else_is_int8(pruner, pixel_values, tmp_path):
    pruner.export(tmp_path / "out", dtype="int8", calibration_dataset=pixel_values)
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    weights = {weight.name: weight for weight in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    linear, of_attention = [], []
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            sources = [producers[name].op_type for name in node.input[:2]]
            (linear if sources == ["DequantizeLinear"] * 2 else of_attention).append(node)
            assert "DequantizeLinear" not in sources or sources == ["DequantizeLinear"] * 2
    assert (len(linear), len(of_attention)) == (7, 2)  # q, k, v, o, two of the MLP and the classifier
    for node in linear:
        weight, scale, _ = producers[node.input[1]].input
        assert weights[weight].data_type == onnx.TensorProto.INT8
        assert max(weights[scale].dims) in weights[weight].dims  # one scale per channel


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "tflite"}, ValueError, "format must be one of 'onnx', 'openvino', got 'tflite'"),
        ({"dtype": "int4"}, ValueError, "dtype must be one of 'fp32', 'fp16', 'int8', got 'int4'"),
        ({"dtype": "int8"}, ValueError, "Pass a calibration_dataset"),
        ({"opset": 11}, ValueError, "opset must be from 18 to 2., got 11"),
        ({"opset": "18"}, TypeError, "opset must be an integer"),
        ({"save_directory": "saved"}, ValueError, "saved holds files that this library did not write"),
        ({"save_directory": "file"}, ValueError, "is a file"),
        ({"calibration_dataset": torch.zeros(0, 3, 32, 32)}, ValueError, "The dataset is empty"),
        ({"calibration_dataset": torch.zeros(2, 3, 8, 8)}, ValueError, "the model reads"),
    ],
)
def test_mistakes_are_named_before_any_work(options, error, message, pruner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "to_onnx", None)
    pruner.model.save_pretrained("saved")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        pruner.export(**{"save_directory": "out", **options})
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_are_worth_nothing_are_named_before_any_work(pruner, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "to_onnx", None)
    pruner.model.classifier.bias.data[0] = float("inf")
    with pytest.raises(ValueError, match=r"classifier\.bias has values that are NaN or infinite"):
        pruner.export(tmp_path / "out")


@pytest.mark.parametrize(("format", "title"), [("onnx", "ONNX"), ("openvino", "OpenVINO")])
def test_a_missing_package_is_named(format, title, pruner, tmp_path, monkeypatch):
    monkeypatch.setitem(packages._PACKAGES, format, ("onnx", "no_such_package"))
    message = rf"{title} needs no_such_package: pip install 'optimum-snp\[{format}\]'"
    with pytest.raises(ImportError, match=message):
        pruner.export(tmp_path / "out", format=format)


def test_a_package_of_another_name_than_its_module(monkeypatch):
    monkeypatch.setattr(packages.metadata, "packages_distributions", lambda: {"odd_module": ["numpy"]})
    assert packages.package_version("odd_module") == packages.package_version("numpy") == np.__version__


def test_a_model_that_is_too_large_for_a_file(pruner, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match="more than 2 GiB"):
        pruner.export(tmp_path / "out")


def test_half_precision_that_merges_other_tokens_says_so(pruner, pixel_values, tmp_path, monkeypatch):
    pruner.calibrate(pixel_values, num_samples=6)
    pruner.prune(SNPConfig(token_sparsity=0.25, reconstruction=False))
    monkeypatch.setitem(export._TOLERANCES, "fp16", 1e-9)
    with pytest.raises(
        ValueError, match=r"not exported: in fp16 .* merges tokens, and rounded to float16 other pairs"
    ):
        pruner.export(tmp_path / "out", dtype="fp16")


def test_what_computes_something_else_is_not_written(pruner, pixel_values, tmp_path, monkeypatch):
    pruner.export(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    earlier = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    right = export.to_onnx
    other = SNPPruner.from_pretrained(
        build_source("ViTForImageClassification", num_hidden_layers=1, hidden_act="relu")
    )

    def wrong(module, *arguments, **options):
        module.model = other.model
        return right(module, *arguments, **options)

    monkeypatch.setattr(export, "to_onnx", wrong)
    with pytest.raises(ValueError, match="not exported: in fp32 its logits differ from PyTorch's by up to"):
        pruner.export(tmp_path / "out", overwrite=True)
    monkeypatch.setattr(export, "_INT8_TOLERANCE", 1e-3)
    monkeypatch.setattr(export, "to_onnx", right)
    with pytest.raises(ValueError, match=r"not exported: in int8 .* Calibrate on more images"):
        pruner.export(tmp_path / "new", dtype="int8", calibration_dataset=pixel_values)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"out holds what was saved there before"):
        pruner.export(tmp_path / "out", format="openvino")
    pruner.export(
        tmp_path / "out", format="openvino", overwrite=True
    )  # takes the place of the earlier one, but not of others' files
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "notes.txt", "openvino_model.bin", "openvino_model.xml", "preprocessor_config.json",
        "snp_export.json",
    }  # fmt: skip

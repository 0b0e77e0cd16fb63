"""Models in ONNX compute what they compute in PyTorch."""

import numpy as np
import onnxruntime
import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.conversion import convert
from optimum_snp.exporting import export_onnx, onnx
from tests.helpers import build_source


@pytest.mark.parametrize(
    "class_name", ["ViTModel", "DeiTForImageClassificationWithTeacher", "SwinForImageClassification", "SwinBackbone"]
)
def test_outputs_are_those_of_pytorch(class_name, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    pruner.calibrate(pixel_values, num_samples=6)
    model = pruner.prune(SNPConfig(qk_sparsity=0.5, v_sparsity=0.3, mlp_sparsity=0.5, hidden_sparsity=0.2))
    largest = export_onnx(model, pixel_values[:2], tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    others = torch.randn(2, 3, 32, 32)  # images that the exporter has not seen
    found = session.run(None, {"pixel_values": others.numpy()})
    with torch.inference_mode():
        outputs = model(others)
    expected = outputs.feature_maps if class_name == "SwinBackbone" else list(outputs.values())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-4)
    assert 0 <= largest < 1e-4
    assert model.config._attn_implementation == "sdpa"


def test_outputs_have_their_names(pixel_values, tmp_path):
    export_onnx(convert(build_source("DeiTForImageClassificationWithTeacher")), pixel_values, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "cls_logits", "distillation_logits"]


def test_a_graph_that_computes_something_else_is_not_written(source, pixel_values, tmp_path, monkeypatch):
    other = build_source("ViTForImageClassification", hidden_act="relu")
    right = onnx.to_onnx

    def wrong(module, *arguments):
        module.model = convert(other)
        return right(module, *arguments)

    monkeypatch.setattr(onnx, "to_onnx", wrong)
    with pytest.raises(ValueError, match="not exported: its logits differ from PyTorch's by up to"):
        export_onnx(convert(source), pixel_values, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(source, pixel_values, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ImportError, match=r"ONNX needs no_such_package: pip install 'optimum-snp\[onnx\]'"):
        export_onnx(convert(source), pixel_values, tmp_path / "model.onnx")

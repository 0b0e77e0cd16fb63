"""OpenVINO: its models from ONNX graphs, in float32, float16 or int8, and its runtime on the CPU."""

import contextlib
import functools
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .logs import quiet


if TYPE_CHECKING:
    import onnx
    import openvino


def to_openvino(graph: "onnx.ModelProto") -> "openvino.Model":
    """The model of an ONNX graph.

    OpenVINO can convert models of PyTorch directly, too. From the graph, both formats hold the same operations.
    """
    return _core().read_model(io.BytesIO(graph.SerializeToString()))


def openvino_request(
    model: "openvino.Model | Path", num_threads: int | None = None, precision: str = "f32"
) -> "openvino.InferRequest":
    """OpenVINO on the CPU for a model or its file, with a number of threads (default: all cores).

    Args:
        model:
            The model, or its .xml file.
        num_threads (`int`, *optional*):
            Threads of the CPU.
        precision (`str`, *optional*, defaults to `"f32"`):
            What float32 operations are computed in: `"f32"` or `"bf16"`. OpenVINO itself takes `"bf16"` where the CPU
            multiplies it fast; here float32 means float32 unless it is asked for.
    """
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if num_threads:
        settings["INFERENCE_NUM_THREADS"] = num_threads
    return _core().compile_model(model, "CPU", settings).create_infer_request()


@functools.cache
def _core() -> "openvino.Core":
    """One for the life of the process.

    OpenVINO 2026.4 gives the thread that runs a model a stack for its signals. Once no core was left, that stack was
    seen to be gone, and the next signal, such as the end of a worker that loads data, ended the process.
    """
    import openvino

    return openvino.Core()


def quantize_openvino(model: "openvino.Model", images: Iterable[torch.Tensor]) -> "openvino.Model":
    """A model that multiplies in int8, by NNCF's quantisation after training for transformers.

    Three of its defaults are not used; docs/speed.md has the measurements. Ranges of activations are symmetric: that
    is faster, as accurate, and OpenVINO 2026.4 crashes on some Swins with others. Products of activations with each
    other, in attention, stay in float: the error of a DeiT is half as large, for hardly any time. There is no
    SmoothQuant, with which the outputs of a Swin were useless.

    Args:
        model:
            In float32, with one input.
        images (`Iterable[torch.Tensor]`):
            Images to take ranges and biases from, `[1, channels, height, width]` each.
    """
    examples = [image.numpy() for image in images]
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        import nncf

        with quiet("nncf"):
            return nncf.quantize(
                model,
                nncf.Dataset(examples),
                subset_size=len(examples),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.PERFORMANCE,
                ignored_scope=nncf.IgnoredScope(names=_products_of_activations(model)),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1)
                ),
            )


def _products_of_activations(model: "openvino.Model") -> list[str]:
    products = (node for node in model.get_ops() if node.get_type_name() == "MatMul")
    return [
        node.get_friendly_name()
        for node in products
        if all(value.get_node().get_type_name() != "Constant" for value in node.input_values())
    ]

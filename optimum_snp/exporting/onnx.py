"""ONNX: graphs from PyTorch's exporter, in float32, float16 or int8, and ONNX Runtime to run them."""

import contextlib
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .logs import quiet


if TYPE_CHECKING:
    import onnx
    import onnxruntime

# Layers with weights; products of activations with each other stay in float32. See `quantize_onnx`.
_QUANTIZED_OPERATORS = ("MatMul", "Gemm")


def to_onnx(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    any_batch: bool = False,
    opset: int | None = None,
) -> "onnx.ModelProto":
    """The graph of a module in eval mode, for inputs of these shapes.

    Attention becomes plain matrix products: what makes PyTorch's fused kernel fast, zeros beside the smaller of two
    head sizes, only costs time in ONNX Runtime.

    Args:
        module (`nn.Module`):
            What is exported.
        inputs (`tuple[torch.Tensor, ...]`):
            Examples of its inputs.
        input_names, output_names (`Sequence[str]`):
            Names for the graph.
        any_batch (`bool`, *optional*, defaults to `False`):
            Whether the first dimension of the inputs may have any size; that of the examples must be 2 or more then.
        opset (`int`, *optional*):
            Version of ONNX's operators; by default the exporter's.
    """
    sizes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if any_batch else None
    with torch.no_grad(), _plain_attention(module), _quiet_exporter():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=sizes,
            opset_version=opset,
        )
    graph = program.model_proto
    for node in graph.graph.node:  # stack traces of the exporter, with paths of this machine
        del node.metadata_props[:]
    return graph


def onnx_session(graph: "onnx.ModelProto | Path", num_threads: int | None = None) -> "onnxruntime.InferenceSession":
    """ONNX Runtime on the CPU for a graph or its file, with a number of threads (default: all cores)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    # Threads that wait for the next run of one session would take cores from the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    source = graph if isinstance(graph, Path) else graph.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def to_half(graph: "onnx.ModelProto") -> "onnx.ModelProto":
    """A graph with weights and activations in float16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet("onnxruntime.transformers.float16"):
        return convert_float_to_float16(graph, keep_io_types=True)


def quantize_onnx(graph: "onnx.ModelProto", batches: Iterable[torch.Tensor]) -> "onnx.ModelProto":
    """A graph whose linear layers multiply in int8, by ONNX Runtime's static quantisation.

    Weights are int8 with one scale per output channel; activations are unsigned, with ranges from the images. Products
    of activations with each other, in attention, stay in float32, and so does all that comes out of a linear layer:
    quantising these, too, was slower on a CPU (docs/speed.md) and less accurate. The patch embedding stays in float32,
    since nothing is gained there.

    Args:
        graph:
            In float32, with one input.
        batches (`Iterable[torch.Tensor]`):
            Images to take the ranges from, `[batch, channels, height, width]` each.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {graph.graph.input[0].name: batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "quantized"))
        onnx.save(graph, given)
        # Shapes are known from the exporter; ONNX Runtime's own way to them fails where tokens merge.
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED_OPERATORS),
            nodes_to_exclude=_products_of_activations(onnx.load(prepared)),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": list(_QUANTIZED_OPERATORS)},
        )
        return onnx.load(quantized)


def _products_of_activations(graph: "onnx.ModelProto") -> list[str]:
    weights = {weight.name for weight in graph.graph.initializer}
    products = (node for node in graph.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if weights.isdisjoint(node.input)]


@contextlib.contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}.values()
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's remarks on packages that it does not need."""
    with quiet("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

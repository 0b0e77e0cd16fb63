"""ONNX: graphs from PyTorch's exporter, and ONNX Runtime to run them.

Packages of the extra `onnx` are imported where they are used, so that everything else works without them.
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..models import SNPModel


if TYPE_CHECKING:
    import onnx
    import onnxruntime

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# The difference from PyTorch that an output may have, as a share of its largest value.
TOLERANCE = 1e-3


def check_onnx_packages() -> None:
    """Tells before any work whether models can be exported and run.

    Raises:
        ImportError: If a package is missing; the message says how to get it.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'optimum-snp[onnx]'.")


def export_onnx(model: SNPModel, pixel_values: torch.Tensor, path: str | Path) -> float:
    """Writes a model to an ONNX file, for images of one shape, and checks it against PyTorch.

    Args:
        model:
            A model of ours in eval mode, on the CPU.
        pixel_values (`torch.Tensor` of shape `[batch, channels, height, width]`):
            Images of the shape that the file is to take, which the check runs on.
        path (`str` or `Path`):
            The file. Its input is `pixel_values`; its outputs are named as those of the model, several of one name
            with numbers.

    Returns:
        `float`: The largest difference of an output from PyTorch's.

    Raises:
        ImportError: If a package is missing.
        ValueError: If an output differs by more than a thousandth of its largest value; nothing is written then.
    """
    check_onnx_packages()
    with torch.inference_mode():
        expected = _named_tensors(model(pixel_values))
    graph = to_onnx(_Outputs(model), (pixel_values,), ["pixel_values"], list(expected))
    found = onnx_session(graph).run(None, {"pixel_values": pixel_values.numpy()})
    largest = 0.0
    for (name, value), array in zip(expected.items(), found, strict=True):
        difference = (value - torch.from_numpy(array)).abs().max().item()
        if not difference <= TOLERANCE * value.abs().max().item():
            raise ValueError(
                f"The ONNX graph is not exported: its {name} differ from PyTorch's by up to {difference:.2g}, with "
                f"values up to {value.abs().max().item():.2g}."
            )
        largest = max(largest, difference)
    Path(path).write_bytes(graph.SerializeToString())
    return largest


class _Outputs(nn.Module):
    """A model that gives its outputs as a plain tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_named_tensors(self.model(pixel_values)).values())


def _named_tensors(outputs: ModelOutput) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in outputs.items():
        several = isinstance(value, tuple)
        tensors |= {f"{name}.{index}": part for index, part in enumerate(value)} if several else {name: value}
    return tensors


def to_onnx(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], input_names: Sequence[str], output_names: Sequence[str]
) -> "onnx.ModelProto":
    """The graph of a module in eval mode, for inputs of these shapes.

    Attention becomes plain matrix products: what makes PyTorch's fused kernel fast, zeros beside the smaller of two
    head sizes, only costs time in ONNX Runtime.
    """
    with torch.no_grad(), _plain_attention(module), _quiet_exporter():
        program = torch.onnx.export(
            module, inputs, dynamo=True, verbose=False, input_names=input_names, output_names=output_names
        )
    return program.model_proto


def onnx_session(graph: "onnx.ModelProto", num_threads: int | None = None) -> "onnxruntime.InferenceSession":
    """ONNX Runtime on the CPU for a graph, with a number of threads (default: all cores)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    # Threads that wait for the next run of one session would take cores from the others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


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
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    try:
        exporter.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)

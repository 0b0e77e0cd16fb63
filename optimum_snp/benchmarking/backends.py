"""What runs a model when its latency is measured: PyTorch eager, `torch.compile`, ONNX Runtime or OpenVINO."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from ..exporting.onnx import onnx_session, to_onnx
from ..exporting.openvino import openvino_request, to_openvino
from ..packages import FORMAT_OF_RUNTIME, check_packages


Key = TypeVar("Key", bound=Hashable)

# Modules that are exported to one ONNX graph: fewer calls of the exporter, and graphs that fit into memory.
_MODULES_PER_GRAPH = 24


def check_backend(backend: str, device: torch.device) -> None:
    """Tells before any work whether a backend can be used.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the backend does not run on the device.
    """
    if backend in FORMAT_OF_RUNTIME:
        check_packages(FORMAT_OF_RUNTIME[backend])
        if device.type != "cpu":
            raise ValueError(f"{backend} is measured on the CPU, the model is on {device}. Move it to the CPU.")


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[int]:
    """PyTorch with a number of threads, or with as many as it has; gives the number."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def prepare(
    modules: Mapping[Key, tuple[nn.Module, torch.Tensor]], backend: str, num_threads: int
) -> dict[Key, Callable[[], Any]]:
    """Makes modules ready to be timed on a backend.

    Args:
        modules (`Mapping[Key, tuple[nn.Module, torch.Tensor]]`):
            Modules in eval mode, each with its input.
        backend (`str`):
            One of `LATENCY_BACKENDS`.
        num_threads (`int`):
            For ONNX Runtime and OpenVINO; PyTorch has its number from [`cpu_threads`].

    Returns:
        `dict[Key, Callable]`: For every module a call that runs it once on its input.
    """
    if backend in FORMAT_OF_RUNTIME:
        return _prepare_exported(modules, backend, num_threads)

    def bind(module: nn.Module, example: torch.Tensor) -> Callable[[], Any]:
        run = torch.compile(module) if backend == "compile" else module
        return lambda: run(example)

    return {key: bind(*module) for key, module in modules.items()}


class _SideBySide(nn.Module):
    """Modules that have nothing to do with each other, as one."""

    def __init__(self, modules: tuple[nn.Module, ...]):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = (_tensors(part(example)) for part, example in zip(self.parts, inputs, strict=True))
        return tuple(tensor for tensors in outputs for tensor in tensors)


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _call(graph: Any, example: torch.Tensor, backend: str, num_threads: int) -> Callable[[], Any]:
    """A call that runs a graph of one input once."""
    pixels = example.numpy()
    if backend == "onnxruntime":
        session, name = onnx_session(graph, num_threads), graph.graph.input[0].name
        return lambda: session.run(None, {name: pixels})
    request = openvino_request(to_openvino(graph), num_threads)
    return lambda: request.infer([pixels])


def _prepare_exported(
    modules: Mapping[Key, tuple[nn.Module, torch.Tensor]], backend: str, num_threads: int
) -> dict[Key, Callable[[], Any]]:
    from onnx.utils import Extractor

    calls = {}
    keys = list(modules)
    with tqdm(total=len(keys), desc="Exporting", unit="module", disable=None) as progress:
        for start in range(0, len(keys), _MODULES_PER_GRAPH):
            chosen = keys[start : start + _MODULES_PER_GRAPH]
            parts, inputs = zip(*(modules[key] for key in chosen), strict=True)
            input_names = [f"input_{index}" for index in range(len(chosen))]
            with torch.inference_mode():
                outputs = [_tensors(part(example)) for part, example in zip(parts, inputs, strict=True)]
            output_names = [
                [f"output_{index}_{number}" for number in range(len(tensors))] for index, tensors in enumerate(outputs)
            ]
            inputs = tuple(example.clone() for example in inputs)  # the exporter takes what is shared for one input
            all_names = [name for names in output_names for name in names]
            graph = Extractor(to_onnx(_SideBySide(parts), inputs, input_names, all_names))
            for key, example, read, written in zip(chosen, inputs, input_names, output_names, strict=True):
                calls[key] = _call(graph.extract_model([read], written), example, backend, num_threads)
            progress.update(len(chosen))
    return calls

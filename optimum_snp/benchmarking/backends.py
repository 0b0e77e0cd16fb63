"""What runs a model when its latency is measured: PyTorch eager, `torch.compile` or ONNX Runtime."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm.auto import tqdm

from ..exporting.onnx import check_onnx_packages, onnx_session, to_onnx


Key = TypeVar("Key", bound=Hashable)

# Modules that are exported to one ONNX graph: fewer calls of the exporter, and graphs that fit into memory.
_MODULES_PER_GRAPH = 24


def check_backend(backend: str, device: torch.device) -> None:
    """Tells before any work whether a backend can be used.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the backend does not run on the device.
    """
    if backend == "onnxruntime":
        check_onnx_packages()
        if device.type != "cpu":
            raise ValueError(f"ONNX Runtime is measured on the CPU, the model is on {device}. Move it to the CPU.")


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
            `"eager"`, `"compile"` or `"onnxruntime"`.
        num_threads (`int`):
            For ONNX Runtime; PyTorch has its number from [`cpu_threads`].

    Returns:
        `dict[Key, Callable]`: For every module a call that runs it once on its input.
    """
    if backend == "onnxruntime":
        return _prepare_onnx(modules, num_threads)

    def bind(module: nn.Module, example: torch.Tensor) -> Callable[[], Any]:
        run = torch.compile(module) if backend == "compile" else module
        return lambda: run(example)

    return {key: bind(*module) for key, module in modules.items()}


class _SideBySide(nn.Module):
    """Modules that have nothing to do with each other, as one."""

    def __init__(self, modules: list[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_first_tensor(part(example)) for part, example in zip(self.parts, inputs, strict=True))


def _first_tensor(output: Any) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


def _prepare_onnx(
    modules: Mapping[Key, tuple[nn.Module, torch.Tensor]], num_threads: int
) -> dict[Key, Callable[[], Any]]:
    from onnx.utils import Extractor

    def bind(session: Any, feed: dict[str, Any]) -> Callable[[], Any]:
        return lambda: session.run(None, feed)

    calls = {}
    keys = list(modules)
    with tqdm(total=len(keys), desc="Exporting to ONNX", unit="module") as progress:
        for start in range(0, len(keys), _MODULES_PER_GRAPH):
            chosen = keys[start : start + _MODULES_PER_GRAPH]
            parts, inputs = zip(*(modules[key] for key in chosen), strict=True)
            input_names = [f"input_{index}" for index in range(len(chosen))]
            output_names = [f"output_{index}" for index in range(len(chosen))]
            graph = Extractor(to_onnx(_SideBySide(list(parts)), inputs, input_names, output_names))
            for key, example, read, written in zip(chosen, inputs, input_names, output_names, strict=True):
                session = onnx_session(graph.extract_model([read], [written]), num_threads)
                calls[key] = bind(session, {read: example.numpy()})
            progress.update(len(chosen))
    return calls

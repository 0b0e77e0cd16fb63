"""What runs a model when its latency is measured: PyTorch eager, `torch.compile` or ONNX Runtime."""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
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


def fair_clock(device: torch.device, num_threads: int) -> Callable[[], float]:
    """The clock to compare models by.

    What runs on one thread of the CPU is timed by what it gets of that CPU: on an idle machine that is the time that
    passes, and on a busy one it is still right. Everything else is timed by the time that passes.
    """
    return time.thread_time if device.type == "cpu" and num_threads == 1 else time.perf_counter


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

    def __init__(self, modules: tuple[nn.Module, ...]):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = (_tensors(part(example)) for part, example in zip(self.parts, inputs, strict=True))
        return tuple(tensor for tensors in outputs for tensor in tensors)


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


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
            with torch.inference_mode():
                outputs = [_tensors(part(example)) for part, example in zip(parts, inputs, strict=True)]
            output_names = [
                [f"output_{index}_{number}" for number in range(len(tensors))] for index, tensors in enumerate(outputs)
            ]
            inputs = tuple(example.clone() for example in inputs)  # the exporter takes what is shared for one input
            all_names = [name for names in output_names for name in names]
            graph = Extractor(to_onnx(_SideBySide(parts), inputs, input_names, all_names))
            for key, example, read, written in zip(chosen, inputs, input_names, output_names, strict=True):
                session = onnx_session(graph.extract_model([read], written), num_threads)
                calls[key] = bind(session, {read: example.numpy()})
            progress.update(len(chosen))
    return calls

"""Several models on several backends, in turn: how long a batch takes, with what spread, and how much memory."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..configuration import LATENCY_BACKENDS
from ..exporting.export import export_model
from ..exporting.exported import ExportedModel
from ..families import convert
from ..file_names import EXPORT_NAME
from ..loading import load_source, source_class
from ..packages import FORMAT_OF_RUNTIME
from ..structure.costs import count_macs
from .backends import check_backend, cpu_threads
from .benchmark_report import BenchmarkReport, Row, quartiles
from .contender import PRECISIONS, Contender
from .latency import time_in_turn
from .machine import describe_machine
from .memory import MemoryProbe, gpu_memory
from .plausible import warn_of_speed_up
from .stopwatch import fair_stopwatch


logger = logging.getLogger(__name__)

_RUNTIMES = {format: runtime for runtime, format in FORMAT_OF_RUNTIME.items()}


def benchmark(
    models: Mapping[str, str | Path],
    *,
    backends: Sequence[str] = ("eager",),
    precisions: Sequence[str] = ("fp32",),
    batch_sizes: Sequence[int] = (1, 8),
    threads: Sequence[int] = (1,),
    device: str = "cpu",
    num_runs: int = 30,
    num_warmup: int = 5,
    memory: bool = True,
) -> BenchmarkReport:
    """Measures models on random images; for every batch size and number of threads all of them in turn.

    A dense checkpoint is measured as it is, in transformers' own code, on `"eager"` and `"compile"`: that is what one
    has without this library. For ONNX Runtime and OpenVINO models are exported as [`SNPPruner.export`] does it.

    Args:
        models (`Mapping[str, str | Path]`):
            By name: folders of saved models, Hub ids or short names, and folders of exported models, which are
            measured on their own runtime whatever `backends` says.
        backends (`Sequence[str]`, *optional*, defaults to `("eager",)`):
            Of `"eager"`, `"compile"`, `"onnxruntime"`, `"openvino"`.
        precisions (`Sequence[str]`, *optional*, defaults to `("fp32",)`):
            What is computed in: `"fp32"` or `"bf16"`, which ONNX Runtime does not have on a CPU.
        batch_sizes (`Sequence[int]`, *optional*, defaults to `(1, 8)`):
            Images per pass.
        threads (`Sequence[int]`, *optional*, defaults to `(1,)`):
            Threads on the CPU.
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"`, or a GPU such as `"cuda"` for the backends of PyTorch.
        num_runs, num_warmup (`int`, *optional*, default to 30 and 5):
            Timed passes of each, and those before.
        memory (`bool`, *optional*, defaults to `True`):
            Whether to measure peak memory, too; on a CPU every model runs in a process of its own for that.

    Returns:
        [`BenchmarkReport`]: Ratios are to the first model on the first backend in the first precision.

    Raises:
        ImportError: If a package is missing.
        ValueError: If there is nothing to measure, or a backend, precision, number or device is none of those allowed,
            or a model none that can be measured; all models are looked for before the first is loaded.
        OSError: If a model cannot be found; from transformers.
    """
    for name, values in (("batch_sizes", batch_sizes), ("threads", threads), ("num_runs", [num_runs])):
        if not values or any(value < 1 for value in values):
            raise ValueError(f"{name} must be 1 or more, got {', '.join(map(str, values)) or 'none'}.")
    on_device = _check(models, backends, precisions, device)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contenders = list(_contenders(models, backends, precisions, folder))
        probe = stack.enter_context(MemoryProbe()) if memory and on_device.type == "cpu" else None
        loaded: dict[tuple[str, str], Any] = {}
        for contender in contenders:  # one copy of the weights for eager and compiled
            key = contender.source, contender.precision
            loaded[key] = loaded.get(key) or contender.load(on_device)
        for num_threads in threads if on_device.type == "cpu" else [1]:
            for batch_size in batch_sizes:
                with cpu_threads(num_threads), _compiling_all(len(contenders)):
                    calls = {
                        each: each.ready(loaded[each.source, each.precision], batch_size, num_threads)
                        for each in contenders
                    }
                    spreads = time_in_turn(
                        calls,
                        fair_stopwatch(on_device, num_threads),
                        num_runs=num_runs,
                        num_warmup=num_warmup,
                        summary=quartiles,
                    )
                    peaks = {}
                    if memory and on_device.type == "cuda":
                        peaks = {each: gpu_memory(call, on_device) for each, call in calls.items()}
                if probe is not None:
                    peaks = {each: probe.measure(each, batch_size, num_threads) for each in contenders}
                count = num_threads if on_device.type == "cpu" else None
                first = spreads[contenders[0]][1]
                _warn(spreads, loaded)
                for each, spread in spreads.items():
                    rows.append(Row.of(each, batch_size, count, spread, first, peaks.get(each)))
    return BenchmarkReport(rows, describe_machine(on_device, {each.backend for each in contenders}))


def _warn(spreads: Mapping[Contender, tuple[float, float, float]], loaded: Mapping[tuple[str, str], Any]) -> None:
    """Warns of models in PyTorch that are faster than the first of their backend by more than their FLOPs allow."""
    first: dict[tuple[str, str], tuple[float, int]] = {}
    for each, (_, seconds, _) in spreads.items():
        if not each.is_exported:
            macs = count_macs(convert(loaded[each.source, each.precision]))
            before = first.setdefault((each.backend, each.precision), (seconds, macs))
            warn_of_speed_up(f"{each.model} on {each.backend}", before[0], seconds, before[1], macs)


def _check(
    models: Mapping[str, str | Path], backends: Sequence[str], precisions: Sequence[str], device: str
) -> torch.device:
    for name, values, allowed in (("backend", backends, LATENCY_BACKENDS), ("precision", precisions, PRECISIONS)):
        for value in values:
            if value not in allowed:
                raise ValueError(f"A {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
    on_device = _device(device)
    measured = set()
    for path in models.values():
        measured |= {_RUNTIMES[ExportedModel.load(path).format]} if _is_export(path) else set(backends)
    for backend in measured:
        check_backend(backend, on_device)
    if not any(_runs(backend, precision) for backend in measured for precision in precisions):
        raise ValueError("There is nothing to measure: name models and backends, and 'fp32' for ONNX Runtime.")
    for path in models.values():
        if not _is_export(path):
            source_class(path)
    return on_device


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or a GPU such as 'cuda', got {name!r}.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"There is no {name!r}: PyTorch finds {count or 'no'} GPU{'s' * (count > 1)}.")
    return device


def _runs(backend: str, precision: str) -> bool:
    """Whether a backend computes in a precision."""
    return precision == "fp32" or backend != "onnxruntime"


def _is_export(path: str | Path) -> bool:
    return (Path(path) / EXPORT_NAME).is_file()


def _contenders(
    models: Mapping[str, str | Path], backends: Sequence[str], precisions: Sequence[str], folder: Path
) -> Iterator[Contender]:
    """What is measured; exports go into the folder."""
    for number, (name, path) in enumerate(models.items()):
        exported = ExportedModel.load(path) if _is_export(path) else None
        needs_export = not exported and any(backend in FORMAT_OF_RUNTIME for backend in backends)
        ours = convert(load_source(path)) if needs_export else None
        for backend in [_RUNTIMES[exported.format]] if exported else backends:
            source = str(path)
            if ours is not None and backend in FORMAT_OF_RUNTIME:
                source = str(folder / f"{number}-{backend}")
                export_model(ours, source, format=FORMAT_OF_RUNTIME[backend])
            for precision in precisions:
                if _runs(backend, precision):
                    yield Contender(name, backend, source, precision, exported.dtype if exported else precision)


@contextlib.contextmanager
def _compiling_all(count: int) -> Iterator[None]:
    """`torch.compile` starts anew, and does not give up after some models of one class."""
    torch.compiler.reset()
    settings = torch._dynamo.config
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # torch < 2.6
    with settings.patch({name: max(getattr(settings, name), 2 * count)}):
        yield

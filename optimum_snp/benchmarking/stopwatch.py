"""What one call takes."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch

from ..devices import synchronize


# Makes a call and gives the seconds that it took.
Stopwatch = Callable[[Callable[[], Any]], float]


def fair_stopwatch(device: torch.device, num_threads: int) -> Stopwatch:
    """The stopwatch to compare models by.

    What runs on one thread of the CPU is timed by what it gets of that CPU: on an idle machine that is the time that
    passes, and on a busy one it is still right. On a GPU, which works on while the CPU goes ahead, events tell the
    time between the first and the last operation. Everything else is timed by the time that passes until the device
    has done all of it.

    Args:
        device (`torch.device`):
            Where the calls run.
        num_threads (`int`):
            Of the CPU.
    """
    if device.type == "cuda":
        return functools.partial(_gpu_seconds, device)
    clock = time.thread_time if device.type == "cpu" and num_threads == 1 else time.perf_counter

    def seconds(call: Callable[[], Any]) -> float:
        synchronize(device)
        start = clock()
        call()
        synchronize(device)
        return clock() - start

    return seconds


def _gpu_seconds(device: torch.device, call: Callable[[], Any]) -> float:
    with torch.cuda.device(device):  # events are those of the current GPU
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000  # it tells milliseconds

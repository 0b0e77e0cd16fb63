"""Which process this is, among those of one job, and what only one of them does."""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list


Result = TypeVar("Result")


def process_state() -> PartialState:
    """Accelerate's state of this process: its rank, the number of processes, its device.

    Without an accelerator Accelerate must be told to use the CPU: otherwise the processes that `torchrun` starts do
    not find each other, and each takes itself for the only one.
    """
    return PartialState(cpu=not _has_accelerator())


def run_on_main_process(work: Callable[[], Result]) -> Result:
    """Lets one process do `work` while the others wait, and gives its result to all.

    Raises:
        Exception: In the main process what `work` raises; in the others then a `RuntimeError`, so that none of them
            waits for ever.
    """
    state = process_state()
    result = error = None
    if state.is_main_process:
        try:
            result = work()
        except Exception as caught:
            error = caught
    failure = f"{type(error).__name__}: {error}" if error else None
    result, failure = broadcast_object_list([result, failure])
    if error is not None:
        raise error
    if failure is not None:
        raise RuntimeError(f"The main process failed with {failure}")
    return result


def _has_accelerator() -> bool:
    if hasattr(torch, "accelerator"):
        return torch.accelerator.is_available()
    return torch.cuda.is_available() or torch.backends.mps.is_available()  # torch < 2.6

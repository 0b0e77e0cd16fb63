"""Which process this is, among those of one job, and what only one of them does."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object


Result = TypeVar("Result")

# How long processes wait for one that plans, solves or pushes. As long as a Trainer lets them wait; NCCL's own ten
# minutes would end a job whose main process pushes a large model.
TIMEOUT = timedelta(minutes=30)


def process_state() -> PartialState:
    """Accelerate's state of this process: its rank, the number of processes, its device.

    Without an accelerator Accelerate must be told to use the CPU: otherwise the processes that `torchrun` starts do
    not find each other, and each takes itself for the only one.

    Raises:
        ValueError: If that has happened already: each would work alone, and overwrite what the others save.
    """
    state = PartialState(cpu=not _has_accelerator(), timeout=TIMEOUT)
    started = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if started > state.num_processes:
        raise ValueError(
            f"{started} processes were started, but Accelerate was set up for {state.num_processes}. Without an "
            "accelerator, TrainingArguments need use_cpu=True and an Accelerator needs cpu=True."
        )
    return state


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
        except BaseException as caught:  # Ctrl-C and SIGTERM, too: nobody may wait for who has left
            error = caught
    failure = f"{type(error).__name__}: {error}" if error else None
    result, failure = broadcast_object_list([result, failure])
    if error is not None:
        raise error
    if failure is not None:
        raise RuntimeError(f"The main process failed with {failure}")
    return result


def tensors_of_main_process(work: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Lets one process compute tensors, as [`run_on_main_process`], and gives them to all, equal to the bit.

    Processors of different make round differently, so that tensors which every process computed for itself would not
    be the same everywhere. Each tensor is sent as it is, through the memory of the device.

    Returns:
        `dict[str, torch.Tensor]`: What `work` returned; in the other processes on the CPU.
    """
    state = process_state()
    tensors: dict[str, torch.Tensor] = {}

    def compute() -> list[tuple[str, torch.Size, torch.dtype]]:
        tensors.update(work())
        return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]

    layout = run_on_main_process(compute)
    if state.num_processes == 1:
        return tensors
    for name, shape, dtype in layout:
        if state.is_main_process:
            broadcast(tensors[name].detach().to(state.device).contiguous())
        else:
            tensors[name] = broadcast(torch.empty(shape, dtype=dtype, device=state.device)).cpu()
    return tensors


def all_equal(value: str) -> bool:
    """Whether all processes hold the same text."""
    return process_state().num_processes == 1 or len(set(gather_object([value]))) == 1


def any_process(value: bool) -> bool:
    """Whether it is true on any of the processes; all must ask."""
    return value if process_state().num_processes == 1 else any(gather_object([value]))


def _has_accelerator() -> bool:
    if hasattr(torch, "accelerator"):
        return torch.accelerator.is_available()
    return torch.cuda.is_available() or torch.backends.mps.is_available()  # torch < 2.6

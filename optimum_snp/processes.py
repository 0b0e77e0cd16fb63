"""Which process this is, among those of one job."""

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """Accelerate's state of this process: its rank, the number of processes, its device.

    Without an accelerator Accelerate must be told to use the CPU: otherwise the processes that `torchrun` starts do
    not find each other, and each takes itself for the only one.
    """
    return PartialState(cpu=not _has_accelerator())


def _has_accelerator() -> bool:
    if hasattr(torch, "accelerator"):
        return torch.accelerator.is_available()
    return torch.cuda.is_available() or torch.backends.mps.is_available()  # torch < 2.6

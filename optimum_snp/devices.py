"""Devices: a model is where the user put it, before and after every verb."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Brings a model back to its device at the end, in its mode: a Trainer takes it to its own and leaves it there."""
    device, training = model.device, model.training
    try:
        yield
    finally:
        model.to(device).train(training)


def synchronize(device: torch.device) -> None:
    """Waits until a device has done all that it was given; a CPU has at once."""
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize()


def device_name(device: torch.device) -> str | None:
    """What its maker calls an accelerator, or `None` where the system does not tell."""
    module = torch.get_device_module(device)
    name = getattr(module, "get_device_name", None)
    return name(device) if name else None

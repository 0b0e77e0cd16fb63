"""Devices: a model is where the user put it, before and after every verb."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


# Of what is free on a GPU, for what would otherwise wait in main memory; the rest is for the passes of the images.
SHARE_OF_MEMORY = 0.25

# Where Accelerate keeps the forward pass that it wraps.
_FORWARD_OF_ITS_OWN = "_original_forward"


@contextlib.contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Brings a model back to its device at the end, in its mode: a Trainer takes it to its own and leaves it there.

    A Trainer also leaves autocast around its forward pass, if it trained in half precision.
    """
    device, training, was_wrapped = model.device, model.training, _FORWARD_OF_ITS_OWN in vars(model)
    try:
        yield
    finally:
        if not was_wrapped:
            unwrap(model)
        model.to(device).train(training)


def unwrap(model: nn.Module) -> None:
    """Takes from a model what Accelerate put around its forward pass, and the mark that it did.

    Left so, it would compute in half precision ever after, and the next Trainer would train it without autocast, and
    its processes without talking to each other.
    """
    forward = vars(model).pop(_FORWARD_OF_ITS_OWN, None)
    if getattr(forward, "__func__", None) is type(model).forward:
        vars(model).pop("forward", None)  # bound to this model, it would run this one in a deep copy, too
    elif forward is not None:
        model.forward = forward
    vars(model).pop("_is_accelerate_prepared", None)


def synchronize(device: torch.device) -> None:
    """Waits until a device has done all that it was given; a CPU has at once."""
    if device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize()


def place_with_room(device: torch.device, num_bytes: float) -> torch.device:
    """A GPU, if so much takes at most `SHARE_OF_MEMORY` of what is free there or PyTorch holds unused; else the CPU.

    Also the CPU for a device that does not tell, and for Apple's GPUs, whose memory is the main memory and which have
    no float64.
    """
    cpu = torch.device("cpu")
    module = torch.get_device_module(device) if device.type not in ("cpu", "mps") else None
    if not hasattr(module, "mem_get_info"):
        return cpu
    unused = module.memory_reserved(device) - module.memory_allocated(device)
    return device if num_bytes <= SHARE_OF_MEMORY * (module.mem_get_info(device)[0] + unused) else cpu


def device_name(device: torch.device) -> str | None:
    """What its maker calls an accelerator, or `None` where the system does not tell."""
    module = torch.get_device_module(device)
    name = getattr(module, "get_device_name", None)
    return name(device) if name else None

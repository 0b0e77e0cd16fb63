"""What a measurement is made on."""

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..devices import device_name
from ..packages import FORMAT_OF_RUNTIME, package_version


def machine_name(device: torch.device) -> str:
    """The name of the processor, as its maker calls it; of an accelerator without a name its kind, too."""
    if device.type != "cpu":
        return device_name(device) or f"{device.type} of {machine_name(torch.device('cpu'))}"
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpu_info.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def describe_machine(device: torch.device, backends: Iterable[str]) -> dict[str, Any]:
    """What a report says of the machine.

    Args:
        device (`torch.device`):
            What the models ran on.
        backends (`Iterable[str]`):
            What ran them.

    Returns:
        `dict`: `processor`, `cores` of the CPU, `system`, the `load` of the last minute (`None` where the system does
        not tell), and `versions` of Python and the packages.
    """
    packages = ["torch", "transformers", *sorted(set(backends) & set(FORMAT_OF_RUNTIME))]
    return {
        "processor": machine_name(device),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(name) for name in packages},
        },
    }

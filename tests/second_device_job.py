"""Forward passes, losses and hooks on a device that is not the CPU, without hardware for it.

PyTorch's hook for backends in Python gives the device, and fake tensors compute shapes and devices on it: an operation
on tensors of two devices fails as it would on a GPU. In a process of its own, since the device stays for good.
"""

import json

import torch
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from optimum_snp.calibration.moments import moment_hooks
from optimum_snp.calibration.statistics import CalibrationStatistics
from optimum_snp.families import convert
from optimum_snp.structure import describe
from tests.helpers import build_source


CLASSES = (
    "ViTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "SwinForImageClassification",
    "SwinBackbone",
)

_setup_privateuseone_for_python_backend("other")


def walk(class_name):
    """What ran on the other device with a model of a class."""
    model = convert(build_source(class_name))
    ran = []
    with FakeTensorMode():
        tensors = [*model.named_parameters(), *model.named_buffers()]
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="other", requires_grad=tensor.requires_grad)
            for name, tensor in tensors
        }
        images = torch.randn(4, 3, 32, 32, device="other")
        outputs = functional_call(model, state, (images,), {"output_attentions": "Backbone" not in class_name})
        assert all(tensor.device.type == "other" for tensor in outputs.values() if isinstance(tensor, torch.Tensor))
        ran.append("forward")
        if class_name.endswith("ForImageClassification"):
            labels = torch.zeros(4, dtype=torch.long, device="other")
            loss = functional_call(model, state, (images,), {"labels": labels}).loss
            loss.backward()
            ran.append("loss")
        structure = describe(model)
        statistics = CalibrationStatistics([{} for _ in structure.blocks])
        for place in ("cpu", "other"):
            hooks = moment_hooks(structure, model, statistics, place)
            with torch.no_grad():
                functional_call(model, state, (images,))
            sums = [*statistics.blocks, *statistics.norms.values()]
            assert {tensor.device.type for found in sums for tensor in found.values()} == {place}
            for hook in hooks:
                hook.remove()
            ran.append(f"moments in {place}")
    return ran


def tells_devices_apart():
    """Else the walk would show nothing."""
    with FakeTensorMode():
        torch.zeros(2, device="other") + torch.zeros(2, device="other")
        try:
            torch.zeros(2) + torch.zeros(2, device="other")
        except RuntimeError:
            return True
    return False


if __name__ == "__main__":
    found = {class_name: walk(class_name) for class_name in CLASSES}
    print(json.dumps({"tells devices apart": tells_devices_apart(), **found}))

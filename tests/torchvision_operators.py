"""A plugin of pytest, named by `-p`, that lets torchvision be imported where its compiled operators do not fit torch.

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its operators do not load, and then its import fails,
only because it describes operators that are not there. Models and transforms of timm use none of them, so declaring
them is enough.
"""

import subprocess
import sys

import torch


if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
    OPERATORS = torch.library.Library("torchvision", "DEF")  # as long as it lives, they do
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""A model on a backend, as a benchmark measures it: in the process of the benchmark, or in one of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..exporting.exported import ExportedModel
from ..loading import load_source
from ..packages import FORMAT_OF_RUNTIME
from ..random_images import random_images


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_OF_OPENVINO = {"fp32": "f32", "bf16": "bf16"}


@dataclass(frozen=True)
class Contender:
    """A model on a backend.

    Attributes:
        model (`str`): What the user calls it.
        backend (`str`): One of `LATENCY_BACKENDS`.
        source (`str`): Its folder or Hub id; for ONNX Runtime and OpenVINO the folder of an export.
        precision (`str`): What is computed in, `"fp32"` or `"bf16"`; of a model in int8, what is left of it.
        dtype (`str`): Of the model.
    """

    model: str
    backend: str
    source: str
    precision: str
    dtype: str

    @property
    def is_exported(self) -> bool:
        """Whether it is a folder for another runtime than PyTorch."""
        return self.backend in FORMAT_OF_RUNTIME

    def load(self, device: torch.device) -> PreTrainedModel | ExportedModel:
        """What `ready` needs, from the disk or the Hub."""
        if self.is_exported:
            return ExportedModel.load(self.source)
        return load_source(self.source).to(device, PRECISIONS[self.precision]).eval()

    def ready(self, loaded: PreTrainedModel | ExportedModel, batch_size: int, num_threads: int) -> Callable[[], Any]:
        """A call that runs the model once, on random images."""
        if isinstance(loaded, ExportedModel):
            run = loaded.open(self.source, num_threads, _OF_OPENVINO[self.precision])
            pixels = torch.randn(batch_size, *loaded.input_shape).numpy()
        else:
            run = torch.compile(loaded, dynamic=False) if self.backend == "compile" else loaded
            pixels = random_images(loaded, batch_size)
        return lambda: run(pixels)

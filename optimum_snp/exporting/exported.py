"""Folders of exported models: what is in them, and how they run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..file_names import EXPORT_NAME
from ..packages import check_packages
from ..saved_fields import check_types, read_json
from .onnx import onnx_session
from .openvino import openvino_request


FILE_NAMES = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}

# Runs a model on pixel values `[batch, channels, height, width]` and gives its outputs by name.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass
class Check:
    """How an exported model was compared with PyTorch.

    Attributes:
        num_images (`int`): Images that both computed.
        largest_difference (`float`): Of any output.
        relative_error (`float`): Root mean square of the differences over that of the values, of the worst output.
        top1_agreement (`float`, *optional*): Share of images with the same class; of several classes.
    """

    num_images: int
    largest_difference: float
    relative_error: float
    top1_agreement: float | None


@dataclass
class ExportedModel:
    """A model in the format of another runtime, as `snp_export.json` in its folder describes it.

    Attributes:
        format (`str`): `"onnx"` or `"openvino"`.
        dtype (`str`): `"fp32"`, `"fp16"` or `"int8"`.
        file (`str`): The model, in the folder.
        opset (`int`): Version of ONNX's operators in the graph that was exported.
        input_shape (`list[int]`): Channels, height and width; the number of images is free.
        outputs (`list[str]`): Their names.
        versions (`dict[str, str]`): Of the packages that made it.
        check ([`Check`]): How close it is to the model in PyTorch.
    """

    format: str
    dtype: str
    file: str
    opset: int
    input_shape: list[int]
    outputs: list[str]
    versions: dict[str, str]
    check: Check

    def save(self, folder: Path) -> None:
        """Writes `snp_export.json` into the folder."""
        (folder / EXPORT_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "ExportedModel":
        """Reads what `save` wrote.

        Raises:
            ValueError: If the folder holds no exported model, or one that this version cannot read.
        """
        path = Path(folder) / EXPORT_NAME
        if not path.is_file():
            raise ValueError(f"{folder} holds no exported model: it has no {EXPORT_NAME}.")
        try:
            values = read_json(path)
            exported = cls(**{**values, "check": Check(**values["check"])})
            check_types(exported, str(path))
            check_types(exported.check, str(path))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} describes no exported model that this version can read: {error}") from error
        if exported.file != FILE_NAMES.get(exported.format):
            raise ValueError(f"{path} describes no exported model that this version can read.")
        return exported

    def open(self, folder: str | Path, num_threads: int | None = None, precision: str = "f32") -> Run:
        """Makes the model in a folder ready to run on the CPU.

        Args:
            folder (`str` or `Path`):
                The folder.
            num_threads (`int`, *optional*):
                Threads of the CPU; by default all cores.
            precision (`str`, *optional*, defaults to `"f32"`):
                Of OpenVINO; see [`openvino_request`].

        Raises:
            ImportError: If a package is missing.
        """
        check_packages(self.format)
        path = Path(folder) / self.file
        if self.format == "onnx":
            session = onnx_session(path, num_threads)
            name = session.get_inputs()[0].name
            return lambda pixels: self._named(session.run(self.outputs, {name: pixels}))
        request = openvino_request(path, num_threads, precision)
        return lambda pixels: self._named(request.infer([pixels]).to_tuple())

    def _named(self, outputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, outputs, strict=True))

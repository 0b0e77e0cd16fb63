"""From a model to a folder in the format of another runtime, checked against PyTorch before the folder appears."""

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import ModelOutput

from ..data import calibration_subset, pixel_dataset
from ..families.checks import weight_not_finite
from ..file_names import EXPORT_NAME
from ..folders import atomic_folder, check_save_directory
from ..models import SNPModel
from ..packages import check_packages, package_version
from ..random_images import random_images
from ..structure import describe, input_name, model_inputs
from .exported import FILE_NAMES, Check, ExportedModel, Run
from .onnx import quantize_onnx, to_half, to_onnx
from .openvino import quantize_openvino, to_openvino


logger = logging.getLogger(__name__)

FORMATS = tuple(FILE_NAMES)
DTYPES = ("fp32", "fp16", "int8")
# The difference from PyTorch that an output may have, as a share of its largest value.
_TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2}
# Of int8, single values differ by more: that of the root mean square of an output.
_INT8_TOLERANCE = 0.2
_OPSETS = (18, 25)  # the first and last that PyTorch's exporter can be asked for
_BATCH_SIZE = 16
_RANDOM_IMAGES = 3
_MOST_BYTES = 2**31  # in one file of ONNX


def check_export(
    save_directory: str | Path,
    format: str,
    dtype: str,
    *,
    has_images: bool,
    opset: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Tells before any work whether a model can be exported like this.

    Returns:
        `Path`: The absolute path of the folder.

    Raises:
        ImportError: If a package is missing.
        TypeError: If `opset` is no integer.
        ValueError: If format, dtype or opset are none of those that can be made, `int8` has no images to calibrate on,
            or the folder cannot be written, or holds anything and `overwrite` is `False` or it is no exported model.
    """
    for name, value, allowed in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
    check_packages(format)
    if opset is not None:
        _check_opset(opset)
    if dtype == "int8" and not has_images:
        raise ValueError("dtype 'int8' takes the ranges of activations from images. Pass a calibration_dataset.")
    return check_save_directory(save_directory, overwrite=overwrite, marks=[EXPORT_NAME])


def _check_opset(opset: int) -> None:
    import onnx

    if isinstance(opset, bool) or not isinstance(opset, int):
        raise TypeError(f"opset must be an integer, got {opset!r}.")
    first, last = _OPSETS[0], min(_OPSETS[1], onnx.defs.onnx_opset_version())
    if not first <= opset <= last:
        raise ValueError(f"opset must be from {first} to {last}, got {opset}.")


def export_model(
    model: SNPModel,
    save_directory: str | Path,
    *,
    format: str = "onnx",
    dtype: str = "fp32",
    image_processor: BaseImageProcessor | None = None,
    calibration_dataset: Any = None,
    num_samples: int = 64,
    image_column: str | None = None,
    skip_unreadable: bool = False,
    seed: int = 42,
    opset: int | None = None,
    overwrite: bool = False,
) -> ExportedModel:
    """Writes a model for ONNX Runtime or OpenVINO, for any number of images of the configured size.

    The folder gets the model, its `config.json` with the labels, the image processor's settings, and
    `snp_export.json`, see [`ExportedModel`]. What is written is run there and compared with PyTorch before the folder
    appears.

    Args:
        model:
            A model of ours. It is not changed.
        save_directory (`str` or `Path`):
            A new or an empty folder.
        format (`str`, *optional*, defaults to `"onnx"`):
            `"onnx"` or `"openvino"`.
        dtype (`str`, *optional*, defaults to `"fp32"`):
            `"fp32"`; `"fp16"`, of weights in OpenVINO and of activations, too, in ONNX; or `"int8"`, of weights and
            activations of linear layers. Input and outputs are always float32.
        image_processor (`BaseImageProcessor`, *optional*):
            Of the model.
        calibration_dataset (*optional*):
            Unlabelled images, of the kinds that [`~optimum_snp.data.pixel_dataset`] takes: for the ranges
            of activations in int8, and to compare on. Without, random images are compared.
        num_samples (`int`, *optional*, defaults to 64):
            How many of them, chosen at random by `seed`.
        image_column (`str`, *optional*):
            Their column, where feature types do not tell.
        skip_unreadable (`bool`, *optional*, defaults to `False`):
            Whether other images take the place of those that cannot be read, which are named.
        seed (`int`, *optional*, defaults to 42):
            Of the choice.
        opset (`int`, *optional*):
            Version of ONNX's operators; by default the exporter's.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an earlier export in the folder may be replaced.

    Returns:
        [`ExportedModel`]

    Raises:
        ImportError, TypeError: As [`check_export`], and for a dataset of no supported kind.
        ValueError: As [`check_export`], for a dataset that cannot be used, weights that are NaN or infinite or more
            than 2 GiB, or if an output differs from PyTorch's by more than a thousandth (fp16: a hundredth) of its
            largest value, or in int8 by more than a fifth as root mean squares; nothing is written then.
    """
    has_images = calibration_dataset is not None
    check_export(save_directory, format, dtype, has_images=has_images, opset=opset, overwrite=overwrite)
    if name := weight_not_finite(model):
        raise ValueError(f"The weight {name} has values that are NaN or infinite, so that the model is worth nothing.")
    if 4 * sum(weight.numel() for weight in model.state_dict().values()) > _MOST_BYTES:
        raise ValueError("The model has more than 2 GiB of weights, which one file of ONNX cannot hold.")
    model = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    if has_images:
        pixels = pixel_dataset(calibration_dataset, model.config, image_processor, image_column=image_column)
        chosen = calibration_subset(pixels, num_samples, seed, skip_unreadable=skip_unreadable)
        images = torch.stack([model_inputs(chosen[index]) for index in range(len(chosen))])
    else:
        images = random_images(model, _RANDOM_IMAGES)
    expected = _expected(model, images)

    example = (random_images(model, 2),)
    graph = to_onnx(_Outputs(model), example, [input_name(model.config)], list(expected), any_batch=True, opset=opset)
    with atomic_folder(save_directory, _is_exported_file) as folder:
        path = folder / FILE_NAMES[format]
        (_write_onnx if format == "onnx" else _write_openvino)(graph, path, dtype, images)
        exported = ExportedModel(
            format=format,
            dtype=dtype,
            file=path.name,
            opset=next(entry.version for entry in graph.opset_import if not entry.domain),
            input_shape=list(images.shape[1:]),
            outputs=list(expected),
            versions=_versions(format, dtype),
            check=Check(0, 0.0, 0.0, None),
        )
        exported.check = _compare(exported.open(folder), images, expected, dtype, _remedy(model, dtype))
        exported.save(folder)
        _write_settings(model, image_processor, folder)
    return exported


class _Outputs(nn.Module):
    """A model that gives its outputs as a plain tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_named_tensors(self.model(pixel_values)).values())


def _named_tensors(outputs: ModelOutput) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in outputs.items():
        several = isinstance(value, tuple)
        tensors |= {f"{name}.{index}": part for index, part in enumerate(value)} if several else {name: value}
    return tensors


def _batches(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """One image alone and the others together, so that more than one size of batch is compared."""
    yield images[:1]
    yield from images[1:].split(_BATCH_SIZE) if len(images) > 1 else ()


@torch.inference_mode()
def _expected(model: SNPModel, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The outputs of PyTorch by name, of all images."""
    batches = [_named_tensors(model(batch)) for batch in _batches(images)]
    return {name: torch.cat([outputs[name] for outputs in batches]) for name in batches[0]}


def _write_onnx(graph: Any, path: Path, dtype: str, images: torch.Tensor) -> None:
    import onnx

    if dtype == "fp16":
        graph = to_half(graph)
    elif dtype == "int8":
        graph = quantize_onnx(graph, images.split(_BATCH_SIZE))
    onnx.helper.set_model_props(graph, {"made_by": "optimum-snp", "dtype": dtype})
    path.write_bytes(graph.SerializeToString())


def _write_openvino(graph: Any, path: Path, dtype: str, images: torch.Tensor) -> None:
    import openvino

    network = to_openvino(graph)
    if dtype == "int8":
        network = quantize_openvino(network, images.split(1))
    network.set_rt_info({"made_by": "optimum-snp", "dtype": dtype}, "optimum_snp")
    openvino.save_model(network, path, compress_to_fp16=dtype == "fp16")


def _compare(run: Run, images: torch.Tensor, expected: dict[str, torch.Tensor], dtype: str, remedy: str) -> Check:
    """Compares what was written with PyTorch.

    Raises:
        ValueError: If an output differs by more than it may.
    """
    batches = [run(batch.numpy()) for batch in _batches(images)]
    check = Check(len(images), 0.0, 0.0, None)
    for name, value in expected.items():
        exported = torch.from_numpy(np.concatenate([outputs[name] for outputs in batches]))
        difference = (exported - value).double()
        largest, most = difference.abs().max().item(), value.abs().max().item()
        relative = (difference.norm() / value.double().norm().clamp_min(torch.finfo(torch.float32).tiny)).item()
        if dtype == "int8":
            is_close, allowed = relative <= _INT8_TOLERANCE, f"{_INT8_TOLERANCE:.0%} of their size"
        else:
            is_close, allowed = largest <= _TOLERANCES[dtype] * most, f"{_TOLERANCES[dtype]:.1%} of the largest value"
        if not is_close:
            raise ValueError(
                f"The model is not exported: in {dtype} its {name} differ from PyTorch's by up to {largest:.2g}, with "
                f"values up to {most:.2g}, and by {relative:.1%} on the whole; {allowed} are allowed. {remedy}"
            )
        check.largest_difference = max(check.largest_difference, largest)
        check.relative_error = max(check.relative_error, relative)
        if name == "logits" and value.shape[-1] > 1:
            check.top1_agreement = (exported.argmax(-1) == value.argmax(-1)).double().mean().item()
    return check


_REMEDIES = {
    "fp32": "This is a bug of the exporter or of the runtime: try another opset, or other versions of the packages.",
    "fp16": "Its values do not fit float16: use fp32 or int8.",
    "int8": "Calibrate on more images, and on such as the model is meant for, or use fp16 or fp32.",
}


def _remedy(model: SNPModel, dtype: str) -> str:
    """What to do about outputs that are not close to PyTorch's."""
    if dtype == "fp16" and describe(model).merges_tokens:
        return "The model merges tokens, and rounded to float16 other pairs are the most alike: use fp32 or int8."
    return _REMEDIES[dtype]


def _versions(format: str, dtype: str) -> dict[str, str]:
    packages = {"onnx": ["onnx", "onnxruntime"], "openvino": ["openvino", *(["nncf"] if dtype == "int8" else [])]}
    names = ["torch", "transformers", *packages[format]]
    return {name: package_version(name) for name in names}


def _write_settings(model: SNPModel, image_processor: BaseImageProcessor | None, folder: Path) -> None:
    """What users of the model need beside it; the config without code and paths that are not here."""
    config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    for name in ("auto_map", "_name_or_path"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if image_processor is not None:
        image_processor.save_pretrained(folder)
    else:
        logger.info("The model has no image processor, so the export does not say how to prepare images.")


def _is_exported_file(path: str) -> bool:
    names = {*FILE_NAMES.values(), "openvino_model.bin", EXPORT_NAME, "config.json", "preprocessor_config.json"}
    return path in names

"""The report on one or several models: one HTML page that needs no other file, and its pictures as PNG files."""

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from ..calibration import model_fingerprint
from ..data import calibration_subset, pixel_dataset
from ..drawing import can_draw
from ..folders import atomic_folder, check_save_directory
from ..record import ModelRecord
from ..record.measurements import DENSE, Accuracy, Measurements, Stage
from ..structure import architecture_of
from ..structure.costs import count_macs, count_parameters
from . import pictures
from .attention import attention_maps, heads_of_maps
from .pictures import Picture
from .tables import (
    BlockRow,
    Row,
    Table,
    accuracy_rows,
    block_heading,
    block_rows,
    describe_dataset,
    dtype_name,
    format_bytes,
    format_counts,
    latency_rows,
    number_table,
    token_change,
    width_change,
)


logger = logging.getLogger(__name__)

REPORT_NAME = "report.html"
_OF_MODELS = (pictures.KEPT_SIZES, pictures.SPECTRA, pictures.ATTENTION, pictures.MERGED_PATCHES)
_REPORT_FILES = re.compile(rf"{re.escape(REPORT_NAME)}|{pictures.TRADE_OFF}|.*-({'|'.join(_OF_MODELS)})")
MOST_IMAGES = 16  # with attention maps; more take minutes to draw, and nobody looks at them


@dataclass
class ModelSection:
    """What the page says of one model."""

    name: str
    numbers: Table
    blocks: list[BlockRow] = field(default_factory=list)
    block_heading: str = ""
    width: str = ""
    tokens: str = ""
    pictures: list[Picture] = field(default_factory=list)


def write_report(
    output: str | Path,
    models: Mapping[str, ModelRecord],
    *,
    original: str | None = None,
    images: Any = None,
    num_images: int = 4,
    image_column: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes `report.html` and the PNG files of its pictures.

    Stated are the numbers that were measured before, by [`SNPPruner.evaluate`] or [`SNPPruner.measure_latency`] of
    the pruners that the records are from, or of those that saved the models.

    Args:
        output (`str` or `Path`):
            The folder, a new or an empty one.
        models (`Mapping[str, ModelRecord]`):
            The models by the name that the report gives them.
        original (`str`, *optional*):
            Name of the model that the others were pruned from.
        images (*optional*):
            A dataset of any kind that [`optimum_snp.data.pixels`] lists: of some of its images the report shows
            the attention maps of the original and of every other model, and which patches these merge. Needs
            `original`.
        num_images (`int`, *optional*, defaults to 4):
            How many of `images` to show.
        image_column (`str`, *optional*):
            The column of `images`, where its type does not tell.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether an earlier report in the folder may be replaced. Other files in it are kept.

    Returns:
        `dict[str, Any]`: What JSON can hold: the page, its pictures, and FLOPs, parameters and accuracies by model.

    Raises:
        ValueError: As [`check_report`], or if there is no model, a name is no part of a file name, `original` is none
            of the models, or `images` come without it, cannot be read or cannot be compared.
    """
    output = check_report(output, num_images, overwrite=overwrite)
    if not models:
        raise ValueError("A report needs at least one model.")
    if any("/" in name for name in models):
        raise ValueError(f"Files are named after the models, so no name may have a slash; got {', '.join(models)}.")
    if original not in (None, *models):
        raise ValueError(f"original must be one of the models, {', '.join(map(repr, models))}; got {original!r}.")
    if images is not None:
        _check_comparable(models, original)
    measured = {
        name: record.measurements.of_weights(model_fingerprint(record.model)) for name, record in models.items()
    }
    points, data = _trade_off(models, measured)
    if len(points) < 2:
        logger.warning(
            "The report has no picture of accuracy over FLOPs: fewer than two of the models were evaluated on the "
            "same images. Evaluate them first, with pruner.evaluate or on the command line with --evaluate."
        )
    elif not can_draw():
        logger.warning("The report has no pictures, which need matplotlib: pip install 'optimum-snp[plots]'.")
    overview = []
    with atomic_folder(output, lambda name: bool(_REPORT_FILES.fullmatch(name))) as folder:
        if can_draw() and len(points) > 1:
            overview.append(pictures.draw_trade_off(folder / pictures.TRADE_OFF, points, data))
        sections = [_section(folder, name, record, measured[name]) for name, record in models.items()]
        if images is not None and can_draw():
            pixel_values = _pixel_values(models[original], images, num_images, image_column)
            for section in sections:
                if section.name != original:
                    section.pictures += _merged_patches(folder, section.name, models[section.name], pixel_values)
                    section.pictures += _attention(folder, section.name, models, original, pixel_values)
        _write_page(folder, _comparison(models, measured) if len(models) > 1 else None, overview, sections)
    files = [picture.file for picture in (*overview, *(p for section in sections for p in section.pictures))]
    return {
        "report": str(output / REPORT_NAME),
        "pictures": [str(output / file) for file in files],
        "models": {name: _facts(record, measured[name]) for name, record in models.items()},
    }


def check_report(output: str | Path, num_images: int, *, overwrite: bool = False) -> Path:
    """Tells before any work whether a report can be written.

    Returns:
        `Path`: The absolute path of the folder.

    Raises:
        ValueError: If the path is a file or cannot be written, if it holds anything and `overwrite` is `False` or it
            is no report, or if the number of images is not from 1 to 16.
    """
    if not 1 <= num_images <= MOST_IMAGES:
        raise ValueError(f"The number of images must be from 1 to {MOST_IMAGES}, got {num_images}.")
    return check_save_directory(output, overwrite=overwrite, marks=[REPORT_NAME])


def _check_comparable(models: Mapping[str, ModelRecord], original: str | None) -> None:
    if original is None:
        raise ValueError("images shows the attention before and after pruning. Name the original model, too.")
    for name, record in models.items():
        for option in ("model_type", "num_channels", "image_size", "patch_size"):
            expected, found = (getattr(either.model.config, option) for either in (models[original], record))
            if found != expected:
                raise ValueError(
                    f"{option} of {name} is {found}, of {original} {expected}; their attention cannot be compared. "
                    "Leave images out."
                )


def _present(measurements: Measurements) -> list[Accuracy]:
    return [number for number in measurements.accuracies if number.stage == measurements.stage]


def _facts(record: ModelRecord, measurements: Measurements) -> dict[str, Any]:
    return {
        "macs": count_macs(record.model),
        "parameters": count_parameters(record.model),
        "accuracies": [asdict(number) for number in _present(measurements)],
    }


def _comparison(models: Mapping[str, ModelRecord], measured: Mapping[str, Measurements]) -> Table:
    """All models side by side, each at its present stage."""
    columns = {name: Stage(number, name) for number, name in enumerate(models)}

    def side_by_side(kind: str) -> list:
        return [
            replace(number, stage=columns[name])
            for name, measurements in measured.items()
            for number in getattr(measurements, kind)
            if number.stage == measurements.stage
        ]

    counts = {name: count_parameters(record.model) for name, record in models.items()}
    dtypes = {name: record.model.dtype for name, record in models.items()}
    rows = [
        *accuracy_rows(side_by_side("accuracies"), list(columns.values())),
        Row(
            "FLOPs of one image (multiply\N{EN DASH}accumulates)",
            format_counts([count_macs(record.model) for record in models.values()]),
        ),
        Row("Parameters", format_counts(list(counts.values()))),
        Row(
            "Size of the weights",
            [f"{format_bytes(counts[name] * dtypes[name].itemsize)} ({dtype_name(dtypes[name])})" for name in models],
        ),
        *latency_rows(side_by_side("latencies"), list(columns.values())),
    ]
    return Table(list(models), rows)


def _trade_off(
    models: Mapping[str, ModelRecord], measured: Mapping[str, Measurements]
) -> tuple[list[tuple[str, int, float]], str]:
    """Name, FLOPs and accuracy of the models that were measured on the same data, and which data that is.

    The dense model that one of them was pruned from is a point, too, unless it is among the models.
    """
    points: dict[Accuracy, dict[str, tuple[int, float]]] = {}
    dense: dict[Accuracy, dict[tuple[int, float], str]] = {}
    for name, measurements in measured.items():
        plan = models[name].plan
        for number in measurements.accuracies:
            if number.stage == measurements.stage:
                found = points.setdefault(number.conditions, {})
                found[name] = count_macs(models[name].model), number.accuracy
            elif number.stage == Stage(0, DENSE) and plan:
                before = plan.steps[0].macs_before, number.accuracy
                dense.setdefault(number.conditions, {}).setdefault(before, f"dense model of {name}")
    for conditions, found in dense.items():
        shown = points.setdefault(conditions, {})
        shown |= {name: point for point, name in found.items() if point not in shown.values()}
    if not points:
        return [], ""
    conditions, shown = max(points.items(), key=lambda item: len(item[1]))
    return [(name, *values) for name, values in shown.items()], describe_dataset(conditions)


def _section(folder: Path, name: str, record: ModelRecord, measurements: Measurements) -> ModelSection:
    plan = record.plan
    section = ModelSection(name, number_table(plan, measurements, record.model.dtype))
    if plan:
        section.blocks, section.block_heading = block_rows(plan), block_heading(plan)
        section.width, section.tokens = width_change(plan), token_change(plan)
        if can_draw():
            section.pictures = pictures.draw_pictures(folder, plan, measurements, prefix=f"{name}-")
    return section


def _pixel_values(record: ModelRecord, images: Any, num_images: int, image_column: str | None) -> torch.Tensor:
    dataset = pixel_dataset(images, record.model.config, record.image_processor, image_column=image_column)
    subset = calibration_subset(dataset, num_images, seed=0)
    return torch.stack([item["pixel_values"] for item in subset])


@torch.inference_mode()
def _merged_patches(folder: Path, name: str, record: ModelRecord, pixel_values: torch.Tensor) -> list[Picture]:
    architecture, model = architecture_of(record.model.config), record.model
    groups = architecture.patch_groups(model.base_model, pixel_values.to(model.device))
    if groups is None:
        return []
    path = folder / f"{name}-{pictures.MERGED_PATCHES}"
    return [pictures.draw_merged_patches(path, _visible(pixel_values), groups.cpu().numpy())]


def _attention(
    folder: Path, name: str, models: Mapping[str, ModelRecord], original: str, pixel_values: torch.Tensor
) -> list[Picture]:
    old, new = models[original], models[name]
    old_heads, new_heads = heads_of_maps(old), heads_of_maps(new)
    common = [block for block in new_heads if set(old_heads.get(block, [])) & set(new_heads[block])]
    blocks = [common[index] for index in sorted({(len(common) - 1) // 2, len(common) - 1}) if common]
    before = attention_maps(old.model, pixel_values, [list(old_heads).index(block) for block in blocks])
    after = attention_maps(new.model, pixel_values, [list(new_heads).index(block) for block in blocks])
    drawn = []
    for number, block in enumerate(blocks):
        heads = [head for head in new_heads[block] if head in old_heads[block]]
        drawn.append(
            pictures.draw_attention(
                folder / f"{name}-{number}-{pictures.ATTENTION}",
                _visible(pixel_values),
                before[number].maps.numpy()[:, [old_heads[block].index(head) for head in heads]],
                after[number].maps.numpy()[:, [new_heads[block].index(head) for head in heads]],
                before[number].title,
                heads,
            )
        )
    return drawn


def _visible(pixel_values: torch.Tensor) -> np.ndarray:
    """Pixel values as images `[images, height, width, 3]` in [0, 1], each over its own range."""
    images = pixel_values.float().movedim(1, -1)
    images = images.expand(*images.shape[:-1], 3) if images.shape[-1] == 1 else images[..., :3]
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low).clamp_min(1e-6)).numpy()


def _write_page(
    folder: Path, comparison: Table | None, overview: Sequence[Picture], sections: Sequence[ModelSection]
) -> None:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )

    def inline(picture: Picture) -> str:
        return "data:image/png;base64," + base64.b64encode((folder / picture.file).read_bytes()).decode()

    page = environment.get_template("report.html.jinja").render(
        comparison=comparison, overview=overview, sections=sections, inline=inline
    )
    (folder / REPORT_NAME).write_text(page, encoding="utf-8")

"""The files of a saved model: all that `save_pretrained` writes and `push_to_hub` uploads."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..calibration import model_fingerprint
from ..configuration import LAYOUTS, NATIVE_LAYOUT
from ..families import convert, native_config, native_model
from ..families.checks import weight_not_finite
from ..file_names import CARD_NAME, MEASUREMENTS_NAME, PLAN_NAME
from ..folders import atomic_folder, check_save_directory
from ..models import SNPModel
from ..processes import run_on_main_process
from ..record import Measurements, ModelRecord
from .card import write_card


# Begins the line by which configuration files of different modeling files differ.
_MARK = "# Digest of the modeling file: "


def check_save(save_directory: str | Path, *, overwrite: bool = False) -> Path:
    """Tells before any work whether a model can be saved in a folder.

    Returns:
        `Path`: The absolute path of the folder.

    Raises:
        ValueError: As [`check_save_directory`], or if the card in the folder cannot be read.
    """
    folder = check_save_directory(save_directory, overwrite=overwrite)
    read_card(folder / CARD_NAME)
    return folder


def claim_folder(folder: str | Path) -> None:
    """Marks a folder as one that this library writes, before there is anything else in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    if not (Path(folder) / MEASUREMENTS_NAME).exists():
        Measurements().save(Path(folder) / MEASUREMENTS_NAME)


def choose_layout(record: ModelRecord, layout: str | None) -> str:
    """The layout that a model is saved in: by default that of its record.

    Raises:
        ValueError: If there is no such layout, or the model does not fit it.
    """
    layout = record.layout if layout is None else layout
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}, got {layout!r}.")
    if layout == NATIVE_LAYOUT:
        native_config(record.model.config, type(record.model))
    return layout


def save_model(
    record: ModelRecord,
    save_directory: str | Path,
    *,
    layout: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Lets one process save a model in one step; see [`SNPPruner.save_pretrained`]."""
    layout = choose_layout(record, layout)

    def save() -> None:
        previous = read_card(check_save(save_directory, overwrite=overwrite) / CARD_NAME)
        with atomic_folder(save_directory) as folder:
            write_model(folder, record, layout=layout, previous_card=previous, **options)

    run_on_main_process(save)


def read_card(path: Path) -> str | None:
    """The card that is there, or `None`.

    Raises:
        ValueError: If it is no text in UTF-8, so that what a person wrote could not be kept.
    """
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8, so that it cannot be kept: {error}. Convert it first."
        ) from error


def write_model(
    folder: Path,
    record: ModelRecord,
    *,
    layout: str,
    repo_id: str | None = None,
    previous_card: str | None = None,
    **options: Any,
) -> None:
    """Writes weights, config, image processor, history, card, and with layout `"snp"` the code, into an empty folder.

    Args:
        folder (`Path`):
            Where to.
        record ([`ModelRecord`]):
            What is saved.
        layout (`str`):
            `"snp"`, or `"native"` for a model that fits it.
        repo_id (`str`, *optional*):
            The repository of the Hub that the folder is for.
        previous_card (`str`, *optional*):
            The card that is there already; what a person wrote into it is kept.
        options:
            For `save_pretrained` of the model, such as `max_shard_size`.

    Raises:
        ValueError: If weights are NaN or infinite, as after a training that diverged.
    """
    if name := weight_not_finite(record.model):
        raise ValueError(
            f"The weight {name} has values that are NaN or infinite, so that the model is worth nothing. It is not "
            "saved, and what was saved before stays. Go on from a model that was sound."
        )
    if layout == NATIVE_LAYOUT:
        native = native_model(record.model)
        native.save_pretrained(folder, **options)
        record = _loaded_again(record, convert(native))
    else:
        record.model.save_pretrained(folder, **options)
    if record.image_processor is not None:
        record.image_processor.save_pretrained(folder)
    if record.tokenizer is not None:
        record.tokenizer.save_pretrained(folder)
    weights = model_fingerprint(record.model)
    write_history(folder, record, weights)
    write_card(folder, record, layout=layout, repo_id=repo_id, previous=previous_card, weights=weights)


def _loaded_again(record: ModelRecord, model: SNPModel) -> ModelRecord:
    """The record of what a plain checkpoint loads as: the same function, whose weights differ by a scale."""
    weights = model_fingerprint(record.model), model_fingerprint(model)
    return replace(record, model=model, measurements=record.measurements.with_fingerprint(*weights))


def write_history(folder: Path, record: ModelRecord, weights: str | None = None) -> None:
    """Writes how the model came about: plan and recipe, if it was pruned, and what was measured on the way.

    Args:
        folder (`Path`):
            Where to.
        record ([`ModelRecord`]):
            Of the model.
        weights (`str`, *optional*):
            [`~optimum_snp.calibration.model_fingerprint`] of the weights in the folder. Without, they are those of a
            training that is going on, of which nothing was measured.
    """
    if record.plan is not None:
        record.plan.config.save_pretrained(folder)
        record.plan.save(folder / PLAN_NAME)
    record.measurements.of_weights(weights or "").save(folder / MEASUREMENTS_NAME)
    mark_code(folder)


def mark_code(folder: Path) -> None:
    """Writes a digest of each modeling file into the configuration file beside it.

    transformers takes models from folders of one name for the same code if their configuration files are equal, and
    would run the first one's modeling file for both.
    """
    for configuration in folder.glob("configuration_snp_*.py"):
        modeling = configuration.with_name(configuration.name.replace("configuration_", "modeling_", 1))
        digest = hashlib.sha256(modeling.read_bytes()).hexdigest()[:16]
        lines = configuration.read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if not line.startswith(_MARK)] + [f"{_MARK}{digest}"]
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")

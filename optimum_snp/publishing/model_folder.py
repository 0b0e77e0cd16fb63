"""The files of a saved model: all that `save_pretrained` writes and `push_to_hub` uploads."""

import hashlib
from pathlib import Path
from typing import Any

from ..calibration import model_fingerprint
from ..file_names import CARD_NAME, MEASUREMENTS_NAME, PLAN_NAME
from ..folders import atomic_folder, check_save_directory
from ..processes import run_on_main_process
from ..record import ModelRecord
from .card import write_card


# Begins the line by which configuration files of different modeling files differ.
_MARK = "# Digest of the modeling file: "


def save_model(record: ModelRecord, save_directory: str | Path, **options: Any) -> None:
    """Lets one process save a model in one step; see [`SNPPruner.save_pretrained`]."""
    card = check_save_directory(save_directory) / CARD_NAME

    def save() -> None:
        previous = card.read_text(encoding="utf-8") if card.is_file() else None
        with atomic_folder(save_directory) as folder:
            write_model(folder, record, previous_card=previous, **options)

    run_on_main_process(save)


def write_model(
    folder: Path, record: ModelRecord, *, repo_id: str | None = None, previous_card: str | None = None, **options: Any
) -> None:
    """Writes weights, config, modeling code, image processor, history and card into an empty folder.

    Args:
        folder (`Path`):
            Where to.
        record ([`ModelRecord`]):
            What is saved.
        repo_id (`str`, *optional*):
            The repository of the Hub that the folder is for.
        previous_card (`str`, *optional*):
            The card that is there already; what a person wrote into it is kept.
        options:
            For `save_pretrained` of the model, such as `max_shard_size`.
    """
    record.model.save_pretrained(folder, **options)
    if record.image_processor is not None:
        record.image_processor.save_pretrained(folder)
    write_history(folder, record, model_fingerprint(record.model))
    write_card(folder, record, repo_id=repo_id, previous=previous_card)


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

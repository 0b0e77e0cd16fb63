"""The files of a saved model: all that `save_pretrained` writes and `push_to_hub` uploads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calibration import model_fingerprint
from ..plan.plan import PLAN_NAME
from .card import write_card
from .measurements import MEASUREMENTS_NAME


if TYPE_CHECKING:
    from ..pruner import SNPPruner


def write_model(
    folder: Path, pruner: "SNPPruner", *, repo_id: str | None = None, previous_card: str | None = None, **options: Any
) -> None:
    """Writes weights, config, modeling code, image processor, history and card into an empty folder.

    Args:
        folder (`Path`):
            Where to.
        pruner ([`SNPPruner`]):
            What is saved.
        repo_id (`str`, *optional*):
            The repository of the Hub that the folder is for.
        previous_card (`str`, *optional*):
            The card that is there already; what a person wrote into it is kept.
        options:
            For `save_pretrained` of the model, such as `max_shard_size`.
    """
    pruner.model.save_pretrained(folder, **options)
    if pruner.image_processor is not None:
        pruner.image_processor.save_pretrained(folder)
    write_history(folder, pruner, model_fingerprint(pruner.model))
    write_card(folder, pruner, repo_id=repo_id, previous=previous_card)


def write_history(folder: Path, pruner: "SNPPruner", weights: str | None = None) -> None:
    """Writes how the model came about: plan and recipe, if it was pruned, and what was measured on the way.

    Args:
        folder (`Path`):
            Where to.
        pruner ([`SNPPruner`]):
            Of the model.
        weights (`str`, *optional*):
            [`~optimum_snp.calibration.model_fingerprint`] of the weights in the folder. Without, they are those of a
            training that is going on, of which nothing was measured.
    """
    if pruner.pruning_plan is not None:
        pruner.pruning_plan.config.save_pretrained(folder)
        pruner.pruning_plan.save(folder / PLAN_NAME)
    pruner.measurements.of_weights(weights or "").save(folder / MEASUREMENTS_NAME)

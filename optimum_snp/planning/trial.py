"""Plans of a job, and trials where losses of first order do not suffice: whether heads and blocks go as a whole.

Source: our choice.
"""

import logging
from dataclasses import replace

import torch
from accelerate.utils import reduce

from ..calibration import CalibrationImages, CalibrationStatistics
from ..calibration.images import half_of
from ..configuration import AUTO, WHOLE_PARTS, SNPConfig
from ..models import SNPModel
from ..plan import PruningPlan
from ..processes import process_state, run_on_main_process
from ..pruning import build_pruned
from ..reconstruction import compensated_losses
from .change import ChangeOfOutputs
from .decide import check_fits, decide
from .tokens import NUM_IMAGES


logger = logging.getLogger(__name__)


def decide_together(
    model: SNPModel,
    statistics: CalibrationStatistics,
    config: SNPConfig,
    calibration_images: CalibrationImages | None,
    images: CalibrationImages | None,
) -> PruningPlan:
    """[`decide`] for all processes of a job.

    Where the pruned model will be reconstructed, blocks that may go are weighed with what the layer before makes up
    for, and a budget that chose to remove heads or blocks is tried against one that keeps them all.

    Args:
        model, statistics, config:
            See [`decide`].
        calibration_images ([`CalibrationImages`], *optional*):
            Of the statistics; the first of them are what numbers of tokens are tried on.
        images ([`CalibrationImages`], *optional*):
            On which the pruned model will be reconstructed.

    Raises:
        ValueError, ImportError: As [`decide`].
    """
    check_fits(config, model)
    chosen = [name for name in WHOLE_PARTS if getattr(config, name) == AUTO]
    tries_tokens = calibration_images and config.token_sparsity == AUTO
    pixel_values = calibration_images.first(NUM_IMAGES) if tries_tokens else None
    losses = None
    if images and config.dropped_blocks and not isinstance(config.dropped_blocks, list):
        losses = compensated_losses(model, images.batches())
    plan = run_on_main_process(lambda: decide(model, statistics, config, pixel_values, losses))
    removed = [block for block in plan.blocks if len(block.heads) < block.before["num_attention_heads"]]
    if not images or not chosen or not removed:
        return plan

    def keep_all() -> PruningPlan | None:
        try:
            return decide(model, statistics, replace(config, **dict.fromkeys(chosen, 0)), pixel_values, losses)
        except ValueError as error:  # the sizes alone do not save enough
            logger.info("Some heads or blocks must go: %s", error)
            return None

    whole = run_on_main_process(keep_all)
    if whole is None:
        return plan
    change_by_all, change_by_fewer = _changes([whole, plan], model, statistics, images)
    if change_by_all <= change_by_fewer:
        whole.config, plan = config, whole
    return plan


def _changes(
    plans: list[PruningPlan], model: SNPModel, statistics: CalibrationStatistics, images: CalibrationImages
) -> list[float]:
    """For every plan the change of the outputs on half of the images, of the model reconstructed on the other half."""
    batches = list(images.batches())
    halves = ([half_of(batch, index, half) for index, batch in enumerate(batches)] for half in (0, 1))
    fitted, measured = ([part for part in half if len(part)] for half in halves)
    change = ChangeOfOutputs(model, measured)
    changes = torch.tensor(
        [change.of(build_pruned(model, plan, statistics, fitted)) for plan in plans], dtype=torch.float64
    )
    if process_state().num_processes > 1:
        changes = reduce(changes.to(process_state().device), reduction="sum")
    return changes.tolist()

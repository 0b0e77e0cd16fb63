"""Plans of a job, and trials where losses of first order or closed forms do not suffice.

Whether heads and blocks go as a whole is tried, and whether tokens and neurons together are better than each alone.

Source: our choice.
"""

import logging
from dataclasses import replace

import torch
from accelerate.utils import reduce

from ..calibration import CalibrationImages, CalibrationStatistics, statistics_of_batch
from ..calibration.copies import num_copies
from ..calibration.images import half_of
from ..configuration import AUTO, WHOLE_PARTS, SNPConfig
from ..models import SNPModel
from ..plan import PruningPlan
from ..processes import process_state, run_on_main_process
from ..pruning import build_pruned
from ..reconstruction import compensated_losses
from .change import ChangeOfOutputs
from .decide import check_fits, decide
from .tokens import held_out_images


logger = logging.getLogger(__name__)

# Images of one forward pass where plans are held against each other.
TRIAL_BATCH_SIZE = 16


def decide_together(
    model: SNPModel,
    statistics: CalibrationStatistics,
    config: SNPConfig,
    calibration_images: CalibrationImages | None,
    images: CalibrationImages | None,
) -> PruningPlan:
    """[`decide`] for all processes of a job.

    Where the pruned model will be reconstructed, blocks that may go are weighed with what the layer before makes up
    for, tokens and neurons together are tried against each alone, and a budget that chose to remove heads or blocks
    against one that keeps them all.

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
    held_out = None
    if calibration_images and config.token_sparsity == AUTO:
        held_out = calibration_images.part(held_out_images(len(calibration_images))[0])
    losses = None
    if images and config.dropped_blocks and not isinstance(config.dropped_blocks, list):
        losses = compensated_losses(model, images.batches())

    def closest(plans: list[PruningPlan]) -> PruningPlan:
        if len(plans) == 1 or not images or len(images) == len(held_out):
            return plans[0]
        return _closest(plans, model, statistics, images)

    plan = closest(run_on_main_process(lambda: decide(model, statistics, config, held_out, losses)))
    removed = [block for block in plan.blocks if len(block.heads) < block.before["num_attention_heads"]]
    if not images or not chosen or not removed:
        return plan

    def keep_all() -> list[PruningPlan]:
        try:
            return decide(model, statistics, replace(config, **dict.fromkeys(chosen, 0)), held_out, losses)
        except ValueError as error:  # the sizes alone do not save enough
            logger.info("Some heads or blocks must go: %s", error)
            return []

    whole_plans = run_on_main_process(keep_all)
    if not whole_plans:
        return plan
    whole = closest(whole_plans)
    change_by_all, change_by_fewer = _changes([whole, plan], model, statistics, images)
    if change_by_all <= change_by_fewer:
        whole.config, plan = config, whole
    return plan


def _closest(
    plans: list[PruningPlan],
    model: SNPModel,
    statistics: CalibrationStatistics,
    images: CalibrationImages,
) -> PruningPlan:
    """The plan whose outputs change least on images that the model was not solved and reconstructed from.

    Merging has no closed form, so that without reconstruction it looks worse beside neurons than it is.
    """
    parts = held_out_images(len(images))
    of_parts = [_changes_of_part(places, len(parts), plans, model, statistics, images) for places in parts]
    changes = [sum(of_plan) for of_plan in zip(*of_parts, strict=True)]
    for plan, changed in zip(plans, changes, strict=True):
        merged = sum(block.merged_tokens for block in plan.blocks)
        logger.info(f"{merged} tokens merged: the outputs change by {changed / sum(map(len, parts)):.4g} per image.")
    return plans[run_on_main_process(lambda: changes.index(min(changes)))]


def _changes_of_part(
    places: range,
    num_parts: int,
    plans: list[PruningPlan],
    model: SNPModel,
    statistics: CalibrationStatistics,
    images: CalibrationImages,
) -> list[float]:
    """For every plan the change of the outputs on the images at `places`, of the model made from the others."""
    held_out = images.part(places)
    # Of a size of their own, so that the choice does not depend on the one that the user takes.
    others = replace(images.others(places), batch_size=TRIAL_BATCH_SIZE)
    # All parts together see as many copies as one reconstruction on as many images would.
    copies = num_copies(plans[0].config.reconstruction_copies, num_parts * len(others), model.config)
    of_others = statistics.without(statistics_of_batch(model, held_out))
    change = ChangeOfOutputs(model, held_out.split(TRIAL_BATCH_SIZE))
    return [
        change.of(build_pruned(model, plan, of_others, others.batches(copies, plan.config.seed))) for plan in plans
    ]


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

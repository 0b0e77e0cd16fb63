"""The pruned model of a plan, equal to the bit on all processes: new weights, then reconstruction in sequence."""

from collections.abc import Iterable

import torch

from .calibration import CalibrationStatistics
from .methods import method_of
from .models import SNPModel, build_like
from .plan import PruningPlan
from .processes import run_on_main_process, tensors_of_main_process
from .reconstruction import reconstruct


def build_pruned(
    model: SNPModel,
    plan: PruningPlan,
    statistics: CalibrationStatistics | None,
    batches: Iterable[torch.Tensor] | None,
) -> SNPModel:
    """Builds the model that a plan describes.

    Args:
        model:
            The dense model in our architecture; it is not changed.
        plan ([`PruningPlan`]):
            Made for it.
        statistics ([`CalibrationStatistics`], *optional*):
            Of the model, as the plan's method needs them.
        batches (`Iterable[torch.Tensor]`, *optional*):
            Pixel values of this process, on which what blocks add is refitted in sequence; without them the closed
            form stands alone.

    Returns:
        The pruned model, in eval mode.

    Raises:
        ValueError: As [`Method.reshape`].
    """
    pruned = _reshape(model, plan, statistics)
    if batches is not None:
        kept_blocks = [index for index, block in enumerate(plan.blocks) if block.after is not None]
        reconstruct(model, pruned, kept_blocks, _kept_directions(model, plan, statistics), batches)
    return pruned


def _reshape(model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None) -> SNPModel:
    """One process solves for the weights, all load them."""
    method, config = method_of(plan.config), plan.pruned_config(model.config)
    requires_grad: dict[str, bool] = {}

    def solve() -> dict[str, torch.Tensor]:
        pruned = method.reshape(model, plan, statistics)
        requires_grad.update({name: weight.requires_grad for name, weight in pruned.named_parameters()})
        return pruned.state_dict()

    weights = tensors_of_main_process(solve)
    return build_like(model, type(model), config, weights, run_on_main_process(lambda: requires_grad))


def _kept_directions(
    model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None
) -> dict[int, torch.Tensor]:
    """For every stream that gets narrower, by its position, what is kept of it; solved for by one process."""

    def solve() -> dict[str, torch.Tensor]:
        directions = method_of(plan.config).kept_directions(model, plan, statistics)
        return {str(stream): kept for stream, kept in directions.items()}

    return {int(stream): kept for stream, kept in tensors_of_main_process(solve).items()}

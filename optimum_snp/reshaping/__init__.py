"""From a model and a plan to a smaller model of the same architecture."""

import logging
import math

import torch

from ..calibration import CalibrationStatistics
from ..models import SNPModel, build_like
from ..planning.plan import PROJECTED, PruningPlan, WidthPlan
from ..structure import Stream, Structure, describe
from .project import project_block
from .refit import refit_block
from .remove import remove
from .select import Weights, select_neurons
from .width import reshape_stream, rotation


logger = logging.getLogger(__name__)

# Calibration tokens per unknown of the largest regression, below which the fit is no better than its ridge.
TOKENS_PER_UNKNOWN = 2


def reshape(model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics | None = None) -> SNPModel:
    """Builds the pruned model by the method that the plan was made for.

    Args:
        model:
            The dense model in our architecture; it is not changed.
        plan ([`PruningPlan`]):
            Made for this model.
        statistics ([`CalibrationStatistics`], *optional*):
            Of this model, with second moments. Only method `"snp"` does without.

    Returns:
        A model of the same class, in eval mode, on the same device and in the same dtype.

    Raises:
        ValueError: If the plan was made for a model of other sizes, or its method needs statistics that are missing.
    """
    method = plan.config.method
    config = plan.pruned_config(model.config)
    if method != "snp":
        if statistics is None or not statistics.has_moments:
            raise ValueError(
                f"method {method!r} solves for the new weights from second moments of the activations, and there are "
                "none. Call calibrate(dataset) first."
            )
        _warn_of_few_images(plan, statistics)
    model, statistics = remove(model, plan.heads, method, statistics)
    weights = select_neurons(model, plan) if method == "snp" else _solve(model, plan, statistics)
    return build_like(model, type(model), config, weights)


def _solve(model: SNPModel, plan: PruningPlan, statistics: CalibrationStatistics) -> Weights:
    """The weights of the pruned model by a closed-form method, in float64."""
    weights = {name: weight.detach().cpu().double() for name, weight in model.state_dict().items()}
    structure = describe(model)
    reshape_block = project_block if plan.config.method == "projection" else refit_block
    for block, block_plan, sums in zip(structure.blocks, plan.kept_blocks, statistics.blocks, strict=True):
        reshape_block(weights, block.name, block_plan, sums)
    for stream, width in zip(structure.streams, plan.widths, strict=True):
        if width.after < width.before:
            _reshape_width(weights, stream, width, statistics)
            _add_biases(weights, structure)
    return weights


def _add_biases(weights: Weights, structure: Structure) -> None:
    """Where one stream gets narrower, the readers of all streams have biases; those that need none get zeros."""
    for stream in structure.streams:
        for reader in (reader for norm in stream.norms for reader in norm.readers):
            weights.setdefault(f"{reader}.bias", torch.zeros(len(weights[f"{reader}.weight"]), dtype=torch.float64))


def _reshape_width(weights: Weights, stream: Stream, width: WidthPlan, statistics: CalibrationStatistics) -> None:
    if width.kept == PROJECTED:
        reshape_stream(weights, stream, rotation(stream, statistics, width.after), statistics)
    else:
        selection = torch.eye(width.before, dtype=torch.float64)[:, width.kept]
        reshape_stream(weights, stream, selection, statistics, width.kept)


def _warn_of_few_images(plan: PruningPlan, statistics: CalibrationStatistics) -> None:
    """Says how many images the largest regressions of the plan need, if there were fewer."""
    needed = 0
    for block, sums in zip(plan.blocks, statistics.blocks, strict=True):
        if block.after is None:
            continue
        before, after, width = block.before, block.after, plan.widths[block.stage]
        unknowns = [before[name] for name in ("qk_head_dim", "intermediate_size") if after[name] < before[name]]
        if any(after[name] < before[name] for name in ("v_head_dim", "num_attention_heads")):
            unknowns.append(before["v_head_dim"] * before["num_attention_heads"])
        if width.after < width.before:
            unknowns.append(width.before)
        tokens_per_image = float(sums["mlp_num_tokens"]) / max(statistics.num_images, 1)
        tokens = TOKENS_PER_UNKNOWN * max(unknowns, default=0)
        needed = max(needed, math.ceil(tokens / max(tokens_per_image, 1)))
    if statistics.num_images < needed:
        logger.warning(
            f"The model was calibrated on {statistics.num_images} images. The least-squares fits of this plan need at "
            f"least {needed} images; calibrate with num_samples={needed} or more."
        )


__all__ = ["remove", "reshape"]

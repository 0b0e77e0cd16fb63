"""From a model and a plan to a smaller model of the same architecture."""

import logging
import math

from ..calibration import CalibrationStatistics
from ..models import SNPViTForImageClassification, SNPViTModel, build_like
from ..planning.plan import PROJECTED, PruningPlan
from .project import project_block
from .refit import refit_block
from .select import block_prefixes, select_neurons
from .width import rotate_width, select_width


logger = logging.getLogger(__name__)

# Calibration tokens per unknown of the largest regression, below which the fit is no better than its ridge.
TOKENS_PER_UNKNOWN = 2


def reshape(
    model: SNPViTModel | SNPViTForImageClassification,
    plan: PruningPlan,
    statistics: CalibrationStatistics | None = None,
) -> SNPViTModel | SNPViTForImageClassification:
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
    if method == "snp":
        return select_neurons(model, plan)
    config = plan.pruned_config(model.config)
    if statistics is None or not statistics.has_moments:
        raise ValueError(
            f"method {method!r} solves for the new weights from second moments of the activations, and there are "
            "none. Call calibrate(dataset) first."
        )
    _warn_of_few_images(plan, statistics)

    weights = {name: weight.detach().cpu().double() for name, weight in model.state_dict().items()}
    reshape_block = project_block if method == "projection" else refit_block
    for prefix, block, sums in zip(block_prefixes(model), plan.blocks, statistics.blocks, strict=True):
        reshape_block(weights, prefix, block, sums)
    if plan.hidden == PROJECTED:
        weights = rotate_width(weights, model, plan.hidden_size_after, statistics)
    elif plan.hidden_size_after < plan.hidden_size_before:
        weights = select_width(weights, model, plan.hidden, statistics)
    return build_like(model, type(model), config, weights)


def _warn_of_few_images(plan: PruningPlan, statistics: CalibrationStatistics) -> None:
    """Says how many images the largest regression of the plan needs, if there were fewer."""
    unknowns = [plan.hidden_size_before] if plan.hidden_size_after < plan.hidden_size_before else []
    for block in plan.blocks:
        before, after = block.before, block.after
        if after["v_head_dim"] < before["v_head_dim"]:
            unknowns.append(before["v_head_dim"] * before["num_attention_heads"])
        unknowns += [before[name] for name in ("qk_head_dim", "intermediate_size") if after[name] < before[name]]
    tokens = float(statistics.blocks[0]["num_tokens"])
    tokens_per_image = tokens / max(statistics.num_images, 1)
    needed = math.ceil(TOKENS_PER_UNKNOWN * max(unknowns, default=0) / max(tokens_per_image, 1))
    if statistics.num_images < needed:
        logger.warning(
            f"The model was calibrated on {statistics.num_images} images ({tokens:.0f} tokens). The least-squares "
            f"fits of this plan need at least {needed} images; calibrate with num_samples={needed} or more."
        )


__all__ = ["reshape", "select_neurons"]

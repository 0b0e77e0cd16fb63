"""A warning of calibration on too few images for what a plan has fitted to them."""

import logging
import math

from ..calibration import CalibrationStatistics
from ..plan import PruningPlan


logger = logging.getLogger(__name__)

# Calibration tokens per unknown of the largest regression, below which the fit is no better than its ridge.
TOKENS_PER_UNKNOWN = 2
# Tokens of one image are alike, so that images count, too: on a real model fits to 16 images have four times the error
# of those to 64, with thousands of tokens in either (docs/real-model.md).
LEAST_IMAGES = 64


def warn_of_few_images(plan: PruningPlan, statistics: CalibrationStatistics) -> None:
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
        if unknowns:
            tokens = TOKENS_PER_UNKNOWN * max(unknowns)
            needed = max(needed, LEAST_IMAGES, math.ceil(tokens / max(tokens_per_image, 1)))
    if statistics.num_images < needed:
        logger.warning(
            f"The model was calibrated on {statistics.num_images} images. The least-squares fits of this plan need at "
            f"least {needed} images; calibrate with num_samples={needed} or more."
        )

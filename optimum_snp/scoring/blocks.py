"""The criterion for whole blocks: how little a block changes the residual stream on the calibration images.

The change of a token is `|x_out - x_in|^2 / |x_in|^2`, for its vector before and behind the whole block.

Source: our choice. On models trained on digits it ranks blocks much as their removal changes the logits. Nothing takes
the place of a dropped block: what it adds in the mean, put into the stream as a constant, moves the logits more.
"""

import torch

from ..calibration.statistics import CalibrationStatistics


def block_scores(statistics: CalibrationStatistics) -> torch.Tensor:
    """The score of every block; blocks with the least score are dropped first.

    Args:
        statistics ([`CalibrationStatistics`]):
            Reduced over all processes.

    Returns:
        `torch.Tensor` of shape `[blocks]`: float64, at least 0; 0 for a block that adds nothing.

    Raises:
        ValueError: If the statistics were saved before blocks could be dropped.
    """
    if any("stream_change" not in sums for sums in statistics.blocks):
        raise ValueError(
            "These statistics do not say how much blocks change their stream. Call calibrate(dataset) again."
        )
    return torch.stack([sums["stream_change"] / sums["stream_num_tokens"].clamp_min(1) for sums in statistics.blocks])

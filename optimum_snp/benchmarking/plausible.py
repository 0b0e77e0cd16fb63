"""Whether a speed-up can be one, or tells of a disturbed measurement."""

import logging


logger = logging.getLogger(__name__)

# A smaller model also fits better into caches, and may run in other kernels: our choice, above all that we have seen.
MOST_BEYOND_FLOPS = 1.5


def warn_of_speed_up(
    name: str, seconds_before: float, seconds_after: float, macs_before: int, macs_after: int
) -> bool:
    """Warns where a model is faster than what was taken from it allows.

    Args:
        name (`str`):
            Of the faster model.
        seconds_before, seconds_after (`float`):
            Of one pass of the larger and the smaller model, under the same conditions.
        macs_before, macs_after (`int`):
            What each of them computes.

    Returns:
        `bool`: Whether it warned.
    """
    speed_up, allowed = seconds_before / seconds_after, macs_before / macs_after
    is_too_fast = speed_up > MOST_BEYOND_FLOPS * max(allowed, 1.0)
    if is_too_fast:
        logger.warning(
            f"{name} was measured {speed_up:.3g} times as fast, with FLOPs that allow {allowed:.3g} times: something "
            "disturbed the measurement, such as other work on this machine. Measure again, with more runs."
        )
    return is_too_fast

"""Latency of models side by side, in one process and in turn, so that a slow moment of the machine hits all alike."""

import statistics
import time
from collections.abc import Mapping

import torch
from torch import nn
from tqdm.auto import tqdm


@torch.inference_mode()
def measure_latency(
    models: Mapping[str, nn.Module], pixel_values: torch.Tensor, *, num_runs: int = 50, num_warmup: int = 5
) -> dict[str, float]:
    """The median time of one forward pass of each model on the same images.

    Args:
        models (`Mapping[str, nn.Module]`):
            The models by name, in eval mode, on the device of `pixel_values`.
        pixel_values (`torch.Tensor` of shape `[batch, channels, height, width]`):
            The images.
        num_runs (`int`, *optional*, defaults to 50):
            Timed passes of each model.
        num_warmup (`int`, *optional*, defaults to 5):
            Passes before, not timed.

    Returns:
        `dict[str, float]`: Seconds per pass.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in tqdm(range(num_warmup + num_runs), desc="Measuring latency", unit="run"):
        for name, model in models.items():
            start = time.perf_counter()
            model(pixel_values)
            if pixel_values.is_cuda:
                torch.cuda.synchronize()
            if run >= num_warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}

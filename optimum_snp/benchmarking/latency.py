"""Latency of models side by side, in one process and in turn, so that a slow moment of the machine hits all alike."""

import statistics
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedModel

from .stopwatch import Stopwatch, fair_stopwatch


Key = TypeVar("Key", bound=Hashable)
Summary = TypeVar("Summary")


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

    def bind(model: nn.Module) -> Callable[[], Any]:
        return lambda: model(pixel_values)

    calls = {name: bind(model) for name, model in models.items()}
    stopwatch = fair_stopwatch(pixel_values.device, torch.get_num_threads())
    return time_in_turn(calls, stopwatch, num_runs=num_runs, num_warmup=num_warmup)


@torch.inference_mode()
def time_in_turn(
    calls: Mapping[Key, Callable[[], Any]],
    stopwatch: Stopwatch,
    *,
    num_runs: int,
    num_warmup: int,
    summary: Callable[[list[float]], Summary] = statistics.median,  # type: ignore[assignment]
) -> dict[Key, Summary]:
    """The time of each call, in seconds; all are made once per run, one after the other.

    Args:
        calls (`Mapping[Key, Callable]`):
            What to time.
        stopwatch (`Callable`):
            Makes a call and tells the seconds; see [`fair_stopwatch`].
        num_runs (`int`):
            Timed calls of each.
        num_warmup (`int`):
            Calls before, not timed.
        summary (`Callable`, *optional*, defaults to the median):
            What is told of the times of all runs.
    """
    times: dict[Key, list[float]] = {name: [] for name in calls}
    for run in tqdm(range(num_warmup + num_runs), desc="Measuring latency", unit="run", disable=None):
        for name, call in calls.items():
            seconds = stopwatch(call)
            if run >= num_warmup:
                times[name].append(seconds)
    return {name: summary(values) for name, values in times.items()}


def random_model(like: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """A model of another config with random weights, since latency does not depend on them."""
    config._attn_implementation = like.config._attn_implementation
    return type(like)(config).to(device=like.device, dtype=like.dtype).eval()

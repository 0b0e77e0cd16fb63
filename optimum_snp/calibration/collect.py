"""One pass of the calibration images through the model, spread over the processes of Accelerate."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from ..devices import put_back
from ..models import SNPModel
from ..processes import all_equal, process_state
from ..structure import Block, Structure, describe
from .attention_statistics import attention_score_statistics
from .fingerprint import model_fingerprint
from .images import CalibrationImages, choose_images, place_of_batch
from .moments import complete_moments, moment_hooks, place_of_sums
from .sensitivities import add_sensitivities, start_sensitivities
from .statistics import CalibrationStatistics


logger = logging.getLogger(__name__)

# Their sensitivities differ little; on models trained on digits, the plans of 16 are as good as those of 64.
SENSITIVITY_IMAGES = 16


def collect_statistics(
    model: SNPModel,
    dataset: Any,
    *,
    num_samples: int = 256,
    batch_size: int = 16,
    seed: int = 42,
    image_processor: BaseImageProcessor | None = None,
    image_column: str | None = None,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
    moments: bool = True,
    sensitivities: bool = True,
) -> CalibrationStatistics:
    """Runs unlabelled images through the model and sums what the scores and the closed-form methods need.

    Whole batches are dealt out to the processes, so that every image is computed in the same company, and counted
    once, on one process or several: the sums differ by no more than the order of float64 additions.

    Args:
        model:
            The dense model in our architecture. It runs in eval mode on Accelerate's device and is put back.
        dataset:
            See [`optimum_snp.data.pixels`].
        num_samples (`int`, *optional*, defaults to 256):
            Images to use: a random choice by `seed`, or the first of a stream.
        batch_size (`int`, *optional*, defaults to 16):
            Images per forward pass.
        seed (`int`, *optional*, defaults to 42):
            Of the choice of images.
        image_processor, image_column:
            See [`optimum_snp.data.pixel_dataset`].
        num_workers (`int`, *optional*):
            Processes that decode images; by default a number that suits the data set.
        skip_unreadable (`bool`, *optional*, defaults to `False`):
            Whether other images take the place of those that cannot be read, which are named.
        moments (`bool`, *optional*, defaults to `True`):
            Whether to sum the second moments that `method="snp-refit"` and `"projection"` need: a float64 matrix of
            the MLP's size squared per block.
        sensitivities (`bool`, *optional*, defaults to `True`):
            Whether to sum, with the moments, the sensitivities that budgets such as `target_flops` need: a backward
            pass over `SENSITIVITY_IMAGES` of the images.

    Returns:
        [`CalibrationStatistics`]: The same on every process.

    Raises:
        TypeError, ValueError: For a dataset that cannot be used; see [`optimum_snp.data.pixel_dataset`].
        ValueError: If the processes hold models of different weights.
    """
    images = choose_images(
        model,
        dataset,
        num_samples=num_samples,
        batch_size=batch_size,
        seed=seed,
        image_processor=image_processor,
        image_column=image_column,
        num_workers=num_workers,
        skip_unreadable=skip_unreadable,
    )
    return collect_from_images(model, images, seed=seed, moments=moments, sensitivities=sensitivities)


def collect_from_images(
    model: SNPModel, images: CalibrationImages, *, seed: int, moments: bool = True, sensitivities: bool = True
) -> CalibrationStatistics:
    """[`collect_statistics`] of images that are chosen already."""
    fingerprint = model_fingerprint(model)
    if not all_equal(fingerprint):
        raise ValueError(
            "The processes of this job hold models of different weights. Load the same checkpoint on all of them, or "
            "call transformers.set_seed with the same seed before a model is built."
        )
    state = process_state()
    structure = describe(model)
    if structure.merges_tokens:
        raise ValueError(
            "The blocks of this model merge tokens (merged_tokens in its config), and statistics are of whole "
            "grids. Prune it before its tokens merge: in one step with token_sparsity, or in steps of which the last "
            "has it."
        )
    statistics = CalibrationStatistics(blocks=[{} for _ in structure.blocks])
    is_silent = None if state.is_main_process else True  # None: only on a terminal
    progress = tqdm(total=len(images), desc="Calibrating", unit="image", disable=is_silent)

    with put_back(model):
        model.to(state.device).eval()
        # Not in inference mode, whose tensors no pass with gradients could add to.
        with torch.no_grad(), _summing_hooks(structure, model, statistics, moments), progress:
            num_probed = SENSITIVITY_IMAGES if moments and sensitivities else 0
            if num_probed:
                start_sensitivities(structure, statistics)
            for number, pixel_values in enumerate(images.batches()):
                position = place_of_batch(number)
                probed = max(num_probed - position * images.batch_size, 0)
                # Every image goes forward once: the hooks sum while sensitivities have gradients taken, too.
                if probed:
                    add_sensitivities(structure, model, statistics, pixel_values[:probed], seed + position)
                if len(pixel_values) > probed:
                    model(pixel_values[probed:])
                statistics.num_images += len(pixel_values)
                progress.update(min(len(pixel_values) * state.num_processes, len(images) - progress.n))
    _fill_missing(statistics, structure)
    if moments:
        complete_moments(statistics)
    statistics.fingerprint = fingerprint
    return statistics.reduce()


def statistics_of_batch(model: SNPModel, pixel_values: torch.Tensor) -> CalibrationStatistics:
    """The sums over `pixel_values`, `[images, channels, height, width]`, on this process alone; no sensitivities."""
    structure = describe(model)
    statistics = CalibrationStatistics([{} for _ in structure.blocks], len(pixel_values))
    with put_back(model):
        model.to(process_state().device).eval()
        with torch.inference_mode(), _summing_hooks(structure, model, statistics, moments=True):
            model(pixel_values)
    _fill_missing(statistics, structure)
    complete_moments(statistics)
    return statistics


@contextlib.contextmanager
def _summing_hooks(
    structure: Structure, model: nn.Module, statistics: CalibrationStatistics, moments: bool
) -> Iterator[None]:
    """While open, every forward pass adds to `statistics`, with gradients or without."""
    handles = moment_hooks(structure, model, statistics, place_of_sums(structure, model.device)) if moments else []
    for block, sums in zip(structure.blocks, statistics.blocks, strict=True):
        handles += _attention_hooks(block, model, sums)
        handles.append(_stream_hook(block.module, sums))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for sums in [*statistics.blocks, *statistics.norms.values()]:  # statistics are kept in main memory
        sums.update({name: tensor.cpu() for name, tensor in sums.items()})


def _attention_hooks(block: Block, model: nn.Module, sums: dict[str, torch.Tensor]) -> list[Any]:
    queries = []
    query, key = block.score_inputs

    def split_heads(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (block.num_attention_heads, block.qk_head_dim)).transpose(1, 2)

    def keep_query(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        queries.append(output.detach())

    def add_key(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        for name, value in attention_score_statistics(
            split_heads(queries.pop()), split_heads(output.detach())
        ).items():
            sums[name] = sums[name] + value if name in sums else value

    return [
        model.get_submodule(query).register_forward_hook(keep_query),
        model.get_submodule(key).register_forward_hook(add_key),
    ]


def _stream_hook(layer: nn.Module, sums: dict[str, torch.Tensor]) -> Any:
    """Sums over tokens how much the block changes them, `|x_out - x_in|^2 / |x_in|^2`."""
    sums["stream_change"], sums["stream_num_tokens"] = (torch.zeros((), dtype=torch.float64) for _ in range(2))

    def add(_module: nn.Module, inputs: Any, outputs: Any) -> None:
        before, after = inputs[0].detach().float(), outputs[0].detach().float()
        lengths = before.square().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
        changes = (after - before).square().sum(-1).cpu().double() / lengths.cpu().double()
        sums["stream_change"] += changes.sum()
        sums["stream_num_tokens"] += changes.numel()

    return layer.register_forward_hook(add)


def _fill_missing(statistics: CalibrationStatistics, structure: Structure) -> None:
    """A process without a batch adds zeros, so that all processes take part in the reduction."""
    for block, sums in zip(structure.blocks, statistics.blocks, strict=True):
        if "cosines" not in sums:
            nothing = torch.zeros(0, block.num_attention_heads, 1, block.qk_head_dim)
            sums.update(attention_score_statistics(nothing, nothing))

"""What is left of the loss of a block once the layer before it makes up for it, as reconstruction has it do.

A block that is dropped leaves what it added, `d`, to the second layer of the MLP before it, whose inputs are `x`. The
part of `d` that is linear in `x` can be made up for:

    min over A, b of  E |d - A x - b|^2 + ridge * v * |A|^2

is solved on one half of the calibration images, and the error is that on the other half. Blocks at the start of a
stage have no such layer before them.

Time: two passes through the dense network.

Source: our choice; ReplaceMe (arXiv 2505.02819) puts a linear map in the place of blocks.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch.nn import functional as F

from ..devices import put_back
from ..models import SNPModel
from ..processes import process_state, tensors_of_main_process
from ..structure import describe
from .regression import RegressionSums, solve
from .sequence import RIDGE
from .steps import Step, inputs_of, record_steps
from .token_weights import token_weights


# Inputs and targets of one chunk of images, and how much each token counts.
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def compensated_errors(dense: SNPModel, batches: Iterable[torch.Tensor]) -> list[float | None]:
    """The squared error per token of dropping each block alone, summed over channels; the same on all processes.

    Args:
        dense:
            The dense model. It runs in eval mode on Accelerate's device and is put back.
        batches (`Iterable[torch.Tensor]`):
            Pixel values of this process, `[images, channels, height, width]`; the main process has some.

    Returns:
        `list[float | None]`: Of every block; `None` where nothing before it makes up for it.
    """
    with put_back(dense), torch.inference_mode():
        dense.to(process_state().device).eval()
        return _Errors(dense, batches).of_all_blocks()


class _Errors:
    """The streams of this process's images before the block that may make up for the next one."""

    def __init__(self, dense: SNPModel, batches: Iterable[torch.Tensor]):
        self.dense, self.structure = dense, describe(dense)
        self.streams: list[torch.Tensor] = []
        weighed = None
        for pixel_values in batches:
            weighed = pixel_values if weighed is None else weighed
            (stream,) = inputs_of([self.structure.blocks[0].module], partial(dense, pixel_values))
            self.streams.append(stream)
        self.weights = tensors_of_main_process(lambda: token_weights(dense, weighed))

    def of_all_blocks(self) -> list[float | None]:
        errors: list[float | None] = []
        before = None  # the block before, which the streams have not passed yet
        for step in record_steps(self.dense, self.structure):
            if step.block is not None:
                errors.append(None if before is None else self._error(before, step))
            if before is not None:
                self._advance(before)
            if step.block is None:
                self._advance(step)
            before = None if step.block is None else step
        return errors

    def _advance(self, step: Step) -> None:
        self.streams = [step(stream)[0] for stream in self.streams]

    def _error(self, before: Step, step: Step) -> float | None:
        down = self.dense.get_submodule(self.structure.blocks[before.block].down)
        fitted = RegressionSums.of_chunks(self._rows(before, step, 0), down.in_features, down.out_features)
        nothing = torch.zeros_like(down.weight)
        weight, bias = solve(fitted, nothing, nothing[:, 0], RIDGE)

        def errors() -> Iterator[Rows]:
            for neurons, added, weights in self._rows(before, step, 1):
                error = added - F.linear(neurons, weight.to(neurons), bias.to(neurons))
                yield error, error, weights

        found = RegressionSums.of_chunks(errors(), down.out_features, down.out_features)
        return float(found.moment.trace() / found.weight) if found.weight > 0 else None

    def _rows(self, before: Step, step: Step, half: int) -> Iterator[Rows]:
        """The neurons of the block before, and what a block adds, on every second image."""
        blocks = self.structure.blocks
        down = self.dense.get_submodule(blocks[before.block].down)
        for stream in self.streams:
            if len(stream[half::2]):
                behind: list[torch.Tensor] = []
                run = partial(lambda stream, behind: behind.append(before(stream)[0]), stream[half::2], behind)
                (neurons,) = inputs_of([down], run, to_end=True)
                yield neurons, step(behind[0])[0] - behind[0], self.weights[blocks[step.block].down]

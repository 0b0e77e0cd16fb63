"""What is lost with a block once the layer before it makes up for it, as reconstruction has it do.

A block that is dropped leaves what it added, `d`, to the second layer of the MLP before it, whose inputs are `x`. The
part of `d` that is linear in `x` can be made up for:

    min over A, b of  E |d - A x - b|^2 + ridge * v * |A|^2

is solved on one half of the calibration images. The loss is what the error on the other half does to the outputs, to
first order, as if errors of different tokens were independent. Blocks at the start of a stage have no such layer
before them, nor have those behind a layer whose output a norm changes before the stream gets it.

Time: two passes through the dense network, beside the sums.

Source: our choice; ReplaceMe (arXiv 2505.02819) puts a linear map in the place of blocks.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TypeAlias

import torch
from torch.nn import functional as F

from ..calibration.images import half_of
from ..devices import put_back
from ..models import SNPModel
from ..processes import process_state, tensors_of_main_process
from ..structure import describe
from .regression import RegressionSums, ridge_for, solve
from .steps import Step, inputs_of, record_steps
from .token_weights import evened, token_energies


# Of one chunk of images: the neurons before a block, what the block adds, and how much each token counts.
Rows: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def compensated_losses(dense: SNPModel, batches: Iterable[torch.Tensor]) -> list[float | None]:
    """The squared change of the outputs when one block is dropped, for every block; the same on all processes.

    Args:
        dense:
            The dense model. It runs in eval mode on Accelerate's device and is put back.
        batches (`Iterable[torch.Tensor]`):
            Pixel values of this process, `[images, channels, height, width]`; the main process has some.

    Returns:
        `list[float | None]`: `None` where nothing before the block makes up for it, or there is one image alone.
    """
    with put_back(dense):
        dense.to(process_state().device).eval()  # not in inference mode: weights that moved there could not be trained
        with torch.inference_mode():
            return _Losses(dense, batches).of_all_blocks()


class _Losses:
    """The streams of this process's images before the block that may make up for the next one."""

    def __init__(self, dense: SNPModel, batches: Iterable[torch.Tensor]):
        self.dense, self.structure = dense, describe(dense)
        self.streams: list[torch.Tensor] = []
        weighed = None
        for pixel_values in batches:
            weighed = pixel_values if weighed is None else weighed
            self.streams += inputs_of([self.structure.blocks[0].module], partial(dense, pixel_values))
        self.ridge = ridge_for([half_of(stream, index, 0) for index, stream in enumerate(self.streams)])
        self.energies = tensors_of_main_process(lambda: token_energies(dense, weighed))

    def of_all_blocks(self) -> list[float | None]:
        losses: list[float | None] = []
        before = None  # the block that the streams have come to
        for step in record_steps(self.dense, self.structure):
            if step.block is not None:
                makes_up = before is not None and self.structure.blocks[before.block].down_norm is None
                losses.append(self._loss(before, step) if makes_up else None)
            passed = [each for each in (before, step if step.block is None else None) if each is not None]
            for each in passed:
                self.streams = [each(stream)[0] for stream in self.streams]
            before = None if step.block is None else step
        return losses

    def _loss(self, before: Step, step: Step) -> float | None:
        layer = self.dense.get_submodule(self.structure.blocks[before.block].down)
        fitted = RegressionSums.of_chunks(self._rows(before, step, 0), layer.in_features, layer.out_features)

        def solution() -> dict[str, torch.Tensor]:
            weight, bias = solve(
                fitted, torch.zeros_like(layer.weight), layer.weight.new_zeros(len(layer.weight)), self.ridge
            )
            return {"weight": weight.to(layer.weight.dtype), "bias": bias.to(layer.weight.dtype)}

        linear = {name: tensor.to(layer.weight.device) for name, tensor in tensors_of_main_process(solution).items()}

        def errors() -> Iterator[Rows]:
            for neurons, added, weights in self._rows(before, step, 1):
                error = added - F.linear(neurons, **linear)
                yield error, error, weights

        found = RegressionSums.of_chunks(errors(), layer.out_features, layer.out_features)
        if not found.weight:
            return None
        energy = self.energies[self.structure.blocks[step.block].down]
        return float(found.moment.trace() / found.weight * energy.sum().cpu() / layer.out_features)

    def _rows(self, before: Step, step: Step, half: int) -> Iterator[Rows]:
        """Those of every second image."""
        blocks = self.structure.blocks
        down = self.dense.get_submodule(blocks[before.block].down)
        weights = evened(self.energies[blocks[step.block].down])
        for index, whole in enumerate(self.streams):
            stream = half_of(whole, index, half)
            if len(stream):
                behind: list[torch.Tensor] = []
                run = partial(_keep_output, before, stream, behind)
                (neurons,) = inputs_of([down], run, to_end=True)
                yield neurons, step(behind[0])[0] - behind[0], weights


def _keep_output(step: Step, stream: torch.Tensor, outputs: list[torch.Tensor]) -> None:
    outputs.append(step(stream)[0])

"""Ridge regression from sums that add up over chunks of images and over processes.

    min over W, b of  E |y - W x - b|^2 + ridge * v * |W - W_0|^2        v: the mean variance of the inputs x

where rows count by their weights in all means.

Float64 adds what every chunk gives without error, in any order: each chunk's products are rounded to multiples of one
number. So the sums are the same to the bit however chunks are spread over processes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import broadcast, reduce

from ..devices import place_with_room
from ..linear_algebra import ridge_cholesky
from ..processes import process_state


# Products of a chunk are rounded to this share of the largest of the first chunk: finer than float32, in which they
# are computed, and coarse enough for 2^16 chunks to add up within the 53 bits of float64.
_RESOLUTION_BITS = 36

# As large as the moment, that sums and solution hold at most.
_MATRICES = 8

# Channels that are multiplied at once: as many as keep the products fast.
_STRIP = 256

# Relative to the mean square of the inputs; far above the rounding of the sums.
_LEAST_VARIANCE = 1e-7


# Of every regression in a sequence, relative to the mean variance of its inputs, for so many images: a thousand times
# that of the closed form. What a weaker pull fits to the calibration images adds up over the blocks, and with fewer
# images it would be worse than no regression at all (docs/real-model.md).
RIDGE = 1.0
RIDGE_IMAGES = 64


def ridge_for(chunks: Sequence[torch.Tensor]) -> float:
    """The ridge for the images of all processes, given the chunks `[images, ...]` of this one."""
    num_images = sum(len(chunk) for chunk in chunks)
    state = process_state()
    if state.num_processes > 1:
        num_images = int(reduce(torch.tensor(num_images, device=state.device), reduction="sum"))
    images = num_images / RIDGE_IMAGES
    return RIDGE / (images**2 if images < 1 else images**0.5)


@dataclass
class RegressionSums:
    """Sums over rows of inputs `x` and targets `y` with weights `w`, float64, on a GPU that has room or on the CPU.

    Attributes:
        weight (`torch.Tensor` of shape `[1]`): `sum w`.
        input_sum, target_sum (`torch.Tensor`): `sum w x` and `sum w y`.
        moment (`torch.Tensor` of shape `[inputs, inputs]`): `sum w x x^T`.
        cross (`torch.Tensor` of shape `[outputs, inputs]`): `sum w y x^T`.
    """

    weight: torch.Tensor
    input_sum: torch.Tensor
    target_sum: torch.Tensor
    moment: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def of_rows(
        cls, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, place: torch.device
    ) -> "RegressionSums":
        """The sums over `[rows, inputs]` and `[rows, outputs]` with weights `[rows]`, of any floating dtype."""
        with torch.autocast(inputs.device.type, enabled=False):  # networks may run in half precision, sums may not
            return cls._of_rows(inputs, targets, weights.float(), place)

    @classmethod
    def _of_rows(
        cls, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, place: torch.device
    ) -> "RegressionSums":
        total = weights.sum()
        inputs, input_mean = _centre(inputs, weights / total, place)
        targets, target_mean = _centre(targets, weights / total, place)
        weighted, total = inputs * weights.unsqueeze(1), total.to(place).double().view(1)
        # Products of rows less their mean: a large mean costs the covariance no digits.
        moment = _symmetric_product(weighted, inputs).to(place).double().addr_(total * input_mean, input_mean)
        cross = (targets.mT @ weighted).to(place).double().addr_(total * target_mean, input_mean)
        return cls(total, total * input_mean, total * target_mean, moment, cross)

    @classmethod
    def of_chunks(
        cls,
        chunks: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
        num_inputs: int,
        num_outputs: int,
    ) -> "RegressionSums":
        """The sums over all chunks of all processes, the same on each to the bit.

        Args:
            chunks (`Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]`):
                Inputs and targets of this process, `[..., inputs]` and `[..., outputs]`, and the weights of their
                rows, which the other dimensions broadcast to; the main process has some.
            num_inputs, num_outputs (`int`):
                Their sizes, for a process without a chunk.
        """
        totals = quanta = None
        for inputs, targets, weights in chunks:
            of_rows = weights.to(inputs.device).expand(inputs.shape[:-1]).flatten()
            totals = totals or cls._start(num_inputs, num_outputs, inputs.device)
            sums = cls.of_rows(inputs.flatten(0, -2), targets.flatten(0, -2), of_rows, totals.moment.device)
            quanta = quanta or _agree_on_quanta(sums)
            for name, quantum in zip(_FIELDS, quanta, strict=True):
                getattr(totals, name).add_(getattr(sums, name).div_(quantum).round_().mul_(quantum))
        if totals is None:
            totals = cls._start(num_inputs, num_outputs, torch.device("cpu"))
            _agree_on_quanta(totals)
        return totals._reduced()

    @classmethod
    def _start(cls, num_inputs: int, num_outputs: int, device: torch.device) -> "RegressionSums":
        """Zeros, on a GPU that has room for the sums and their solution, or on the CPU."""
        place = place_with_room(device, _MATRICES * torch.float64.itemsize * num_inputs**2)
        shapes = ((1,), (num_inputs,), (num_outputs,), (num_inputs, num_inputs), (num_outputs, num_inputs))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=place) for shape in shapes))

    def _reduced(self) -> "RegressionSums":
        state = process_state()
        if state.num_processes == 1:
            return self
        return RegressionSums(*(reduce(getattr(self, name).to(state.device), reduction="sum") for name in _FIELDS))


_FIELDS = tuple(RegressionSums.__dataclass_fields__)


def _symmetric_product(weighted: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`weighted^T inputs` of the same rows, weighted and not, which is symmetric; half of it is multiplied."""
    product = inputs.new_empty(inputs.shape[1], inputs.shape[1])
    for start in range(0, len(product), _STRIP):
        strip = weighted[:, start : start + _STRIP].mT @ inputs[:, start:]
        product[start:, start : start + _STRIP] = strip.mT
        product[start : start + _STRIP, start:] = strip
    return product


def _centre(rows: torch.Tensor, shares: torch.Tensor, place: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows less their mean by `shares`, in float32, and the mean, in float64 at `place`."""
    rows = rows.float()
    mean = shares @ rows
    rows = rows - mean
    return rows, mean.to(place).double() + (shares @ rows).to(place).double()


def _agree_on_quanta(sums: RegressionSums) -> list[float]:
    """What the main process rounds its first chunk to, field by field: powers of two."""
    state = process_state()
    largest = torch.stack([getattr(sums, name).abs().max() for name in _FIELDS]).float()
    if state.num_processes > 1:
        largest = broadcast(largest.to(state.device)).cpu()
    return [2.0 ** (math.frexp(value)[1] - _RESOLUTION_BITS) for value in largest.tolist()]


def solve(
    sums: RegressionSums, weight: torch.Tensor, bias: torch.Tensor | None, ridge: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight and the bias of the regression, float64.

    Args:
        sums ([`RegressionSums`]):
            Of inputs and targets.
        weight (`torch.Tensor` of shape `[outputs, inputs]`):
            `W_0`, which the ridge pulls to.
        bias (`torch.Tensor` of shape `[outputs]`, *optional*):
            `None` for a layer that has none; the regression then runs through zero.
        ridge (`float`):
            Relative to the mean variance of the inputs.
    """
    moment, cross = sums.moment / sums.weight, sums.cross / sums.weight
    input_mean, target_mean = sums.input_sum / sums.weight, sums.target_sum / sums.weight
    if bias is not None:
        moment = moment - torch.outer(input_mean, input_mean)
        cross = cross - torch.outer(target_mean, input_mean)
    weight = weight.detach().to(moment.device).double()
    missing = cross - weight @ moment
    # Of inputs that do not vary, such as the class tokens of images all alike, the variance is rounding.
    moment.diagonal().add_(_LEAST_VARIANCE * sums.moment.diagonal().mean() / sums.weight)
    fitted = weight + torch.cholesky_solve(missing.mT, ridge_cholesky(moment, ridge)).mT
    return fitted, None if bias is None else target_mean - fitted @ input_mean

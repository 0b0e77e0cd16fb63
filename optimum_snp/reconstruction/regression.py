"""Ridge regression from sums that add up over chunks of images and over processes.

    min over W, b of  sum_t w_t |y_t - W x_t - b|^2 + ridge * s * |W - W_0|^2,   s = mean over inputs of sum_t w_t (x - mean)^2

The sums are the same to the bit however the chunks are spread over processes: what each chunk adds is rounded to the
multiples of one number, so that float64 adds without error and in any order.
"""

from dataclasses import dataclass, field

import torch
from accelerate.utils import broadcast, reduce

from ..linear_algebra import ridge_cholesky
from ..processes import process_state


# What a chunk adds is a multiple of this share of the largest entry of the first chunk. Float64 then adds 2^16 chunks.
_RESOLUTION = 2.0**-37


@dataclass
class RegressionSums:
    """Sums over rows: of inputs `x` `[inputs]` and targets `y` `[outputs]`, with weights.

    Attributes:
        weight (`torch.Tensor`): `sum w`.
        input_sum, target_sum (`torch.Tensor`): `sum w x` and `sum w y`.
        moment (`torch.Tensor` of shape `[inputs, inputs]`): `sum w x x^T`.
        cross (`torch.Tensor` of shape `[outputs, inputs]`): `sum w y x^T`.
    """

    weight: torch.Tensor
    input_sum: torch.Tensor
    target_sum: torch.Tensor
    moment: torch.Tensor
    cross: torch.Tensor
    _quanta: dict[str, float] = field(default_factory=dict)

    @classmethod
    def zeros(cls, num_inputs: int, num_outputs: int) -> "RegressionSums":
        shapes = ((), (num_inputs,), (num_outputs,), (num_inputs, num_inputs), (num_outputs, num_inputs))
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def add(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Adds the rows of a chunk, `[rows, inputs]` and `[rows, outputs]`, with weights `[rows]` if not all are 1."""
        inputs, targets = inputs.float(), targets.float()
        root = None if weights is None else weights.sqrt().unsqueeze(1)
        total = torch.tensor(float(len(inputs)) if weights is None else float(weights.double().sum()))
        total = total.double()
        x_mean, x = _centre(inputs, weights, root)
        y_mean, y = _centre(targets, weights, root)
        self.weight += total
        self.input_sum += total * x_mean
        self.target_sum += total * y_mean
        # Products of rows less their mean: a large mean costs the covariance no digits.
        self.moment += (x.mT @ x).cpu().double().addr_(x_mean, x_mean, alpha=float(total))
        self.cross += (y.mT @ x).cpu().double().addr_(y_mean, x_mean, alpha=float(total))

    def covariances(self, *, centred: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Moments of inputs, and of targets with inputs, about the means (or zero), and the means; per unit of weight."""
        total = self.weight.clamp_min(torch.finfo(torch.float64).tiny)
        x_mean, y_mean = self.input_sum / total, self.target_sum / total
        if not centred:
            x_mean, y_mean = torch.zeros_like(x_mean), torch.zeros_like(y_mean)
        return (
            self.moment / total - torch.outer(x_mean, x_mean),
            self.cross / total - torch.outer(y_mean, x_mean),
            x_mean,
            y_mean,
        )


def _centre(
    rows: torch.Tensor, weights: torch.Tensor | None, root: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of rows, float64 on the CPU, and the rows less it times the root of their weights."""
    mean = rows.mean(dim=0) if weights is None else (weights @ rows) / weights.sum()
    centred = rows - mean
    rest = centred.sum(dim=0) / len(rows) if weights is None else (weights @ centred) / weights.sum()
    return mean.cpu().double() + rest.cpu().double(), centred if root is None else centred * root


def solve(
    sums: RegressionSums, weight: torch.Tensor, bias: torch.Tensor | None, ridge: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights and the bias of the regression, pulled towards `weight` `[outputs, inputs]`; no bias where it is None."""
    moment, cross, x_mean, y_mean = sums.covariances(centred=bias is not None)
    weight = weight.detach().cpu().double()
    factor = ridge_cholesky(moment, ridge)
    fitted = weight + torch.cholesky_solve((cross - weight @ moment).mT, factor).mT
    return fitted, None if bias is None else y_mean - fitted @ x_mean

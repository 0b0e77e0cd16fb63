"""What the methods that solve for new weights share."""

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums
from ..linear_algebra import parallel_map
from ..models import SNPModel
from ..reshaping.select import Weights, weight_of
from ..scoring import eliminate_heads
from ..structure import Block, Structure, describe


def double_weights(model: SNPModel) -> Weights:
    """Copies of all weights in float64 on the CPU, where regressions are solved; integers stay what they are."""
    return {
        name: weight.detach().cpu().double() if weight.is_floating_point() else weight.cpu().clone()
        for name, weight in model.state_dict().items()
    }


def add_biases(weights: Weights, structure: Structure) -> None:
    """Where one stream gets narrower, the readers of all streams have biases; those that need none get zeros."""
    for stream in structure.streams:
        for reader in (reader for norm in stream.norms for reader in norm.readers):
            weights.setdefault(f"{reader}.bias", torch.zeros(len(weights[f"{reader}.weight"]), dtype=torch.float64))


def head_scores(model: SNPModel, statistics: CalibrationStatistics) -> list[torch.Tensor]:
    """Per block the places of its heads in the order of elimination, `[heads]`."""
    return parallel_map(
        lambda block: eliminate_heads(block[0], weight_of(model, block[0].output), block[1]).scores(),
        zip(describe(model).blocks, statistics.blocks, strict=True),
    )


def lose_heads(model: SNPModel, block: Block, sums: Sums) -> torch.Tensor:
    """The error of a block's attention, refitted, for every number of heads kept, `[heads + 1]`."""
    removed = eliminate_heads(block, weight_of(model, block.output), sums).errors
    return torch.cat((removed.flip(0), removed.new_zeros(1)))

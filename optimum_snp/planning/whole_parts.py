"""How many heads every block keeps, and which blocks go as a whole, where a budget may choose.

This is decided before all other sizes, with all of them in view, by the rule of [`optimum_snp.planning.budget`]: for a
price per unit of cost every block takes what has the least loss + price * cost, and one search finds the price at
which the plan just fits. With sizes of queries/keys and values that suit the price, a block with `h` of its `H`
heads has what those heads lose and cost, `h / H` of the whole, and what is lost by the removal of the others. A block
goes when all that is more than its own removal loses. Then the sizes are chosen anew, on what is left.

The loss of heads is the error of the attention's output, refitted where the method refits, by the sensitivity of the
outputs to it; that of a block is the squared change of the outputs when it is left out, to first order. Where the
pruned model will be reconstructed, the layer before a block makes up for a part of it, and the rest is what is lost.

Source: our choice.
"""

from dataclasses import dataclass

import torch

from ..calibration import CalibrationStatistics
from ..configuration import AUTO, BUDGETS, SNPConfig
from ..losses import Losses, per_channel
from ..methods import method_of
from ..models import SNPModel
from ..plan.sizes import Part, Sizes
from ..reshaping.select import weight_of
from ..scoring import Scores
from ..structure import block_stages, describe
from .budget import ROUNDS, best_attention, best_size, search_price, size_choices
from .size_costs import SizeCosts


@dataclass
class WholeLosses:
    """What the removal of whole heads and blocks loses.

    Attributes:
        heads (`list[torch.Tensor]`): Per block `[num_attention_heads + 1]`; entry `h` is that of `h` heads kept.
        blocks (`list[float]`): Of every block.
    """

    heads: list[torch.Tensor]
    blocks: list[float]


def choose_head_counts(
    model: SNPModel,
    statistics: CalibrationStatistics,
    scores: Scores,
    losses: Losses,
    config: SNPConfig,
    fixed: list[int],
    minimum: Sizes,
    round_to: int,
    block_losses: list[float | None] | None = None,
) -> list[int]:
    """The number of heads of every block, 0 for a block that goes.

    A target of latency is taken for one of FLOPs here, since a table of latencies is one of given heads.

    Args:
        model:
            The dense model in our architecture.
        statistics ([`CalibrationStatistics`]):
            Of this model, with sensitivities.
        scores ([`Scores`]), losses ([`Losses`]):
            Of this model, for the same config.
        config ([`SNPConfig`]):
            With a budget, and `"auto"` for heads or blocks.
        fixed (`list[int]`):
            Per block the heads that it keeps, 0 if it goes, where the config leaves no choice.
        minimum (`dict[Slot, int]`):
            The least size of every part.
        round_to (`int`):
            Multiples of this are preferred.
        block_losses (`list[float | None]`, *optional*):
            What every block loses that goes once the layer before it makes up for it; see
            [`optimum_snp.reconstruction.compensated_losses`].
    """
    costs = SizeCosts(model, "macs" if config.budget == "target_latency" else BUDGETS[config.budget])
    choices = size_choices(costs.sizes, losses, minimum)
    whole = compute_whole_losses(model, statistics, scores, config, block_losses)
    stages = block_stages(model.config)
    options = [_head_counts(config, index, count) for index, count in enumerate(fixed)]

    def cheapest(price: float) -> Sizes:
        """The sizes with the least loss + price * cost."""
        sizes = dict(costs.sizes)
        for _ in range(ROUNDS):
            before = dict(sizes)
            gains = []  # of every block, by staying
            for index, head_losses in enumerate(whole.heads):
                num_heads = len(head_losses) - 1
                whole_block = {**sizes, (Part.HEADS, index): num_heads, (Part.BLOCK, index): 1}
                query_key, value, attention = best_attention(costs, choices, index, whole_block, price, round_to)
                slot = (Part.MLP, index)
                intermediate, mlp = best_size(costs, slot, choices[slot], whole_block, price, round_to)
                totals = head_losses[options[index]] + options[index] / num_heads * attention + mlp
                sizes |= {(Part.QUERY_KEY, index): query_key, (Part.VALUE, index): value, slot: intermediate}
                sizes[Part.HEADS, index] = int(options[index][totals.argmin()])
                gains.append(whole.blocks[index] - float(totals.min()))
            for index, stays in enumerate(_blocks_that_stay(config, fixed, gains, stages)):
                sizes[Part.BLOCK, index] = int(stays)
            for slot, choice in choices.items():
                if slot[0] is Part.WIDTH:
                    sizes[slot], _ = best_size(costs, slot, choice, sizes, price, round_to)
            if sizes == before:
                break
        return sizes

    target = getattr(config, config.budget) * costs.total(costs.sizes)
    sizes = search_price(costs, target, cheapest)
    return [sizes[Part.HEADS, index] * sizes[Part.BLOCK, index] for index in range(len(stages))]


def compute_whole_losses(
    model: SNPModel,
    statistics: CalibrationStatistics,
    scores: Scores,
    config: SNPConfig,
    block_losses: list[float | None] | None = None,
) -> WholeLosses:
    """The losses of whole heads and blocks; takes what [`choose_head_counts`] does."""
    losses, method = WholeLosses([], []), method_of(config)
    block_losses = block_losses or [None] * len(statistics.blocks)
    blocks = zip(describe(model).blocks, statistics.blocks, scores.query_key, scores.value, block_losses, strict=True)
    for block, sums, query_key, value, compensated in blocks:
        errors = method.lose_heads(model, block, sums, query_key, value)
        losses.heads.append(errors * per_channel(sums, "attention_sensitivity", weight_of(model, block.output)))
        removal = float(sums["removal_change"] / sums["sensitivity_images"].clamp_min(1))
        losses.blocks.append(removal if compensated is None else compensated)
    return losses


def _head_counts(config: SNPConfig, index: int, fixed: int) -> torch.Tensor:
    """The numbers of heads that a block may keep while it stays."""
    free = config.head_sparsity == AUTO and index not in config.frozen_blocks
    most = max(fixed, 1)
    return torch.arange(1 if free else most, most + 1)


def _blocks_that_stay(config: SNPConfig, fixed: list[int], gains: list[float], stages: list[int]) -> list[bool]:
    """Those that gain by it, and of every stage at least the one that gains most."""
    stays = []
    for index, gain in enumerate(gains):
        if config.dropped_blocks != AUTO or index in config.frozen_blocks:
            stays.append(fixed[index] > 0)
            continue
        of_stage = [other for other, stage in zip(gains, stages, strict=True) if stage == stages[index]]
        stays.append(gain > 0 or gain == max(of_stage))
    return stays

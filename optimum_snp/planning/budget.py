"""From a budget to sizes: the plan that loses least.

Every part of every block has a loss and a cost for each of its sizes, and so has the width of every residual stream.
For a price per unit of cost each part takes the size with the least loss + price * cost: sizes with equal marginal
loss per cost, those on the lower convex hull of its curve. One search over the price finds the plan that just fits
the budget. The cost of a block depends on the width and the other way round, so for one price blocks and widths are
chosen in turn until nothing changes. What is then left of the budget goes, step by step, to where it gains most.

Kernels like sizes that are multiples of 8, and queries and keys as wide as values. While sizes are chosen, half of
what is missing to the next multiple of `round_to` counts as if it were there, and attention counts as if the smaller
of a head's two sizes were the larger. The budget is kept by the true cost.

Source: our choice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..linear_algebra import one_thread
from ..losses import Losses
from ..plan.sizes import Part, Sizes, Slot
from .latency_costs import LatencyCosts
from .size_costs import SizeCosts


Costs: TypeAlias = SizeCosts | LatencyCosts
# From costs, losses, a target, the least sizes and preferred multiples to sizes, as `allocate`.
Allocator: TypeAlias = Callable[[Costs, Losses, float, Sizes, int], Sizes]

# Prices that the search starts between, in loss per cost of the whole model, and its steps: behind the last the price
# is known to ten digits.
_PRICES = (1e-12, 1e12)
_SEARCH_STEPS = 40
# Rounds of choosing blocks and widths in turn. They settle within a few.
ROUNDS = 20
# The share of the budget that may stay unused.
_SLACK = 0.002
# A larger size may cost nothing in latency. It counts as this share of the budget, so that gains are finite.
_FREE = 1e-9


@dataclass
class Choice:
    """The sizes that a part may take, rising, with the loss of each, `[sizes]`."""

    sizes: torch.Tensor
    losses: torch.Tensor

    def at_least(self, size: int) -> int:
        """The first size from `size` on; the largest where there is none."""
        place = int(torch.searchsorted(self.sizes, size))
        return int(self.sizes[min(place, len(self.sizes) - 1)])

    def loss_of(self, size: int) -> float:
        """The loss of one of the sizes."""
        return float(self.losses[torch.searchsorted(self.sizes, size)])


def allocate(costs: Costs, losses: Losses, target: float, minimum: Sizes, round_to: int) -> Sizes:
    """Chooses the sizes that lose least at a cost of at most `target`.

    Args:
        costs ([`SizeCosts`] or [`LatencyCosts`]):
            Of the model that is to be pruned.
        losses ([`Losses`]):
            Of the same model.
        target (`float`):
            The cost that is allowed, in the unit of `costs`.
        minimum (`dict[Slot, int]`):
            The least size of every part; that of the model for what must stay.
        round_to (`int`):
            Multiples of this are preferred.

    Returns:
        `dict[Slot, int]`: A size for every part: the least one where even those cost more.
    """
    choices = size_choices(costs.sizes, losses, minimum)
    best = search_price(costs, target, lambda price: _cheapest(costs, choices, price, round_to))
    if costs.total(best) > target:
        best = minimum
    return _spend_rest(costs, choices, best, target, round_to)


@one_thread()
def search_price(costs: Costs, target: float, cheapest: Callable[[float], Sizes]) -> Sizes:
    """The sizes of the lowest price at which they cost at most `target`; else those of the highest price.

    Args:
        costs ([`SizeCosts`] or [`LatencyCosts`]):
            Of the model.
        target (`float`):
            The cost that is allowed.
        cheapest (`Callable[[float], Sizes]`):
            From a price per unit of cost to the sizes with the least loss + price * cost.
    """
    dense = costs.total(costs.sizes)
    low, high = (math.log(price / dense) for price in _PRICES)
    best = None
    for _ in range(_SEARCH_STEPS):
        price = (low + high) / 2
        sizes = cheapest(math.exp(price))
        if costs.total(sizes) <= target:
            best, high = sizes, price
        else:
            low = price
    return sizes if best is None else best


def size_choices(dense: Sizes, losses: Losses, minimum: Sizes) -> dict[Slot, Choice]:
    """What every part may choose from: its sizes from the least one on, without those of infinite loss."""
    choices = {}
    for slot, size in dense.items():
        sizes, curve = torch.arange(minimum[slot], size + 1), losses.curve(slot)
        sizes = sizes[torch.isfinite(curve[sizes])]
        choices[slot] = Choice(sizes, curve[sizes])
    return choices


def _cheapest(costs: Costs, choices: dict[Slot, Choice], price: float, round_to: int) -> Sizes:
    """The sizes with the least loss + price * cost."""
    sizes = dict(costs.sizes)
    for _ in range(ROUNDS):
        before = dict(sizes)
        for slot, choice in choices.items():
            part, block = slot
            if part is Part.MLP:
                sizes[slot], _ = best_size(costs, slot, choice, sizes, price, round_to)
            elif part is Part.QUERY_KEY:
                query_key, value, _ = best_attention(costs, choices, block, sizes, price, round_to)
                sizes[slot], sizes[Part.VALUE, block] = query_key, value
        for slot, choice in choices.items():
            if slot[0] is Part.WIDTH:  # one after the other: patch merging ties the widths of neighbours
                sizes[slot], _ = best_size(costs, slot, choice, sizes, price, round_to)
        if sizes == before:
            break
    return sizes


def best_size(
    costs: Costs, slot: Slot, choice: Choice, sizes: Sizes, price: float, round_to: int
) -> tuple[int, float]:
    """The size of a part with the least loss + price * cost, and that sum."""
    totals = choice.losses + price * costs.curve(slot, _preferred(choice.sizes, round_to), sizes)
    best = int(totals.argmin())
    return int(choice.sizes[best]), float(totals[best])


def best_attention(
    costs: Costs, choices: dict[Slot, Choice], block: int, sizes: Sizes, price: float, round_to: int
) -> tuple[int, int, float]:
    """The sizes of queries/keys and of values with the least loss + price * cost, and that sum.

    They are chosen together, since attention pads the smaller of the two.
    """
    query_key, value = (choices[part, block] for part in (Part.QUERY_KEY, Part.VALUE))
    preferred = (_preferred(choice.sizes, round_to) for choice in (query_key, value))
    cost = costs.attention(block, *preferred, sizes, padded=round_to > 1)
    totals = query_key.losses.unsqueeze(1) + value.losses + price * cost
    best = int(totals.argmin())
    row, column = divmod(best, totals.shape[1])
    return int(query_key.sizes[row]), int(value.sizes[column]), float(totals.flatten()[best])


def _preferred(sizes: torch.Tensor, round_to: int) -> torch.Tensor:
    """What sizes count as: half of what is missing to the next multiple of `round_to` is added."""
    return (sizes + torch.ceil(sizes / round_to) * round_to) / 2


def _spend_rest(costs: Costs, choices: dict[Slot, Choice], sizes: Sizes, target: float, round_to: int) -> Sizes:
    """Raises sizes, always the one that gains most per cost, to the next multiple of `round_to` if that fits."""
    sizes = dict(sizes)
    for step in sorted({round_to, 1}, reverse=True):
        while (unspent := target - costs.total(sizes)) > _SLACK * target:
            gains = {}
            for slot, choice in choices.items():
                size = sizes[slot]
                larger = choice.at_least((size // step + 1) * step)
                now, then = costs.curve(slot, torch.tensor([size, larger]), sizes).tolist()
                cost = max(then - now, _FREE * target)
                if larger > size and cost <= unspent:
                    gain = choice.loss_of(size) - choice.loss_of(larger)
                    gains[slot] = gain / cost, larger
            if not gains:
                break
            slot = max(gains, key=lambda slot: gains[slot][0])
            sizes[slot] = gains[slot][1]
    return sizes

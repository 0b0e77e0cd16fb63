"""From a share of the latency to a plan whose model was measured whole.

The table of block latencies tells the allocator what sizes cost. A whole model differs a little: it runs its blocks
one after the other, and sizes between those of the table are not linear. So the dense and the pruned model are
measured in turn, and where the pruned one misses the target, the allocator is asked again for as much more or less.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from transformers import PretrainedConfig

from ..benchmarking.backends import check_backend, cpu_threads, prepare
from ..benchmarking.block_latency import latency_table
from ..benchmarking.latency import random_model, time_in_turn
from ..benchmarking.machine import machine_name
from ..benchmarking.stopwatch import fair_stopwatch
from ..configuration import SNPConfig
from ..losses import Losses
from ..models import SNPModel
from ..plan.plan import PruningPlan
from ..plan.sizes import Sizes
from ..random_images import random_images
from .budget import Allocator, Costs
from .latency_costs import LatencyCosts
from .removal import hint_of_whole_parts


logger = logging.getLogger(__name__)

# From how many tokens every block merges to what sizes cost then.
CostsOfMerging: TypeAlias = Callable[[list[int]], Costs]

# The reached latency is good between these shares of the one asked for, and still accepted up to the last.
_GOOD = (0.93, 1.02)
_ACCEPTED = 1.1
_ROUNDS = 4  # of allocating and measuring
_NUM_RUNS, _NUM_WARMUP = 30, 3


def plan_within_latency(
    model: SNPModel,
    remaining: SNPModel,
    config: SNPConfig,
    losses: Losses,
    minimum: Sizes,
    round_to: int,
    allocate: Allocator,
    choose_tokens: Callable[[CostsOfMerging, float], list[int]],
    make_plan: Callable[[Sizes, list[int]], PruningPlan],
) -> PruningPlan:
    """The plan that loses least among those whose models take `config.target_latency` of the time of the dense one.

    Args:
        model:
            The dense model in our architecture, on the device to measure on.
        remaining:
            What is left of it without the heads and blocks that go as a whole; the same if none do.
        config ([`SNPConfig`]):
            With a `target_latency`.
        losses ([`Losses`]):
            Of what is left.
        minimum (`dict[Slot, int]`):
            The least size of every part.
        round_to (`int`):
            Multiples of this are preferred.
        allocate ([`Allocator`]):
            Chooses the sizes.
        choose_tokens (`Callable`):
            From the costs by what the blocks merge, and a target for them, to how many tokens every block that is left
            merges.
        make_plan (`Callable`):
            Makes a plan of sizes and merged tokens.

    Returns:
        [`PruningPlan`]: With what was asked, predicted and reached as its `latency`.

    Raises:
        ImportError: If the backend needs a package that is missing.
        ValueError: If even the model of the least sizes takes longer; the message names the share that it takes.
    """
    asked, backend, batch_size = config.target_latency, config.latency_backend, config.latency_batch_size
    check_backend(backend, model.device)
    table = latency_table(
        remaining,
        backend=backend,
        batch_size=batch_size,
        num_threads=config.latency_threads,
        merges_tokens=config.merges_tokens,
    )
    costs = LatencyCosts(remaining, table)
    measurement = _Measurement(model, config)
    dense = costs.total(costs.sizes)
    if remaining is not model:
        dense /= measurement.share_of(remaining.config)
    target = asked * dense
    merged = choose_tokens(lambda merged: LatencyCosts(remaining, table, merged), target)
    costs = LatencyCosts(remaining, table, merged)
    most, least = costs.total(costs.sizes), costs.total(minimum)
    best = None
    for _ in range(_ROUNDS):
        target = min(max(target, least), most)
        sizes = allocate(costs, losses, target, minimum, round_to)
        plan, predicted = make_plan(sizes, merged), costs.total(sizes) / dense
        reached = measurement.share_of(plan.pruned_config(model.config))
        logger.info(f"Latency: {asked:.1%} asked, {predicted:.1%} predicted, {reached:.1%} reached.")
        plan.latency = {"asked": asked, "predicted": predicted, "reached": reached, **measurement.conditions}
        if best is None or _distance(reached, asked) < _distance(best.latency["reached"], asked):
            best = plan
        if sizes == minimum and reached > _ACCEPTED * asked:
            raise ValueError(
                f"A latency of {asked:.1%} of the model's cannot be reached: the least sizes allowed take "
                f"{reached:.1%}. Raise target_latency, or lower minimum sizes and unfreeze blocks or parts."
                f"{hint_of_whole_parts(config, model.config)}"
            )
        if _GOOD[0] * asked <= reached <= _GOOD[1] * asked or sizes == (minimum if reached > asked else costs.sizes):
            break
        target *= asked / reached
    too_fast = best.latency["reached"] < (2 - _ACCEPTED) * asked and sizes != costs.sizes
    if best.latency["reached"] > _ACCEPTED * asked or too_fast:
        logger.warning(
            f"The plan takes {best.latency['reached']:.1%} of the model's latency, {asked:.1%} was asked for. "
            "Is the machine busy with something else?"
        )
    return best


def _distance(reached: float, asked: float) -> float:
    """How far a latency is from the one asked for; too slow counts double."""
    return max(asked - reached, 2 * (reached - asked))


class _Measurement:
    """Measures pruned models beside the dense one.

    Attributes:
        conditions (`dict`): Where and how.
    """

    def __init__(self, model: SNPModel, config: SNPConfig):
        self._model, self._backend = model, config.latency_backend
        self._images = random_images(model, config.latency_batch_size)
        if self._backend == "compile":
            torch.compiler.reset()  # after many models of one class it stops compiling
        with cpu_threads(config.latency_threads) as self._num_threads:
            self._dense = self._prepare(model)
        self.conditions = {
            "backend": self._backend,
            "batch_size": config.latency_batch_size,
            "threads": self._num_threads if model.device.type == "cpu" else None,
            "machine": machine_name(model.device),
        }

    def share_of(self, config: PretrainedConfig) -> float:
        """The time that the model of a config takes, as a share of that of the dense one."""
        with cpu_threads(self._num_threads):
            # Latency does not depend on weights.
            pruned = self._prepare(random_model(self._model, config))
            seconds = time_in_turn(
                {"dense": self._dense, "pruned": pruned},
                fair_stopwatch(self._model.device, self._num_threads),
                num_runs=_NUM_RUNS,
                num_warmup=_NUM_WARMUP,
            )
        return seconds["pruned"] / seconds["dense"]

    def _prepare(self, model: SNPModel) -> Callable[[], Any]:
        return prepare({0: (model, self._images)}, self._backend, self._num_threads)[0]

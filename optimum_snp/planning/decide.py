"""From what the user asks for to a plan: sizes from shares or a budget, and the neurons with the highest scores."""

import contextlib
import math
from collections.abc import Callable
from functools import partial

import torch
from transformers import PretrainedConfig

from ..calibration import CalibrationStatistics, statistics_of_batch
from ..calibration.copies import check_copies
from ..configuration import AUTO, BUDGETS, NATIVE_LAYOUT, SHARES, SNPConfig
from ..losses import Losses
from ..methods import Method, method_of
from ..models import SNPModel
from ..packages import FORMAT_OF_RUNTIME, check_packages
from ..plan import PROJECTED, BlockPlan, PruningPlan, WidthPlan
from ..plan.sizes import NEURON_PARTS, Part, Sizes, dense_sizes, sizes_of_shares
from ..plan.tokens import merged_tokens
from ..scoring import Scores
from ..structure import block_sizes, block_stages, describe, query_key_step, stream_widths, whole_parts
from ..structure.costs import count_macs, count_parameters, skeleton
from .budget import Allocator, allocate
from .change import ChangeOfOutputs
from .latency import CostsOfMerging, plan_within_latency
from .native import allocate_native, check_native, native_minimum
from .remaining import RemainingModel
from .removal import (
    check_dropped_blocks,
    choose_heads,
    fixed_head_counts,
    hint_of_whole_parts,
    keep_highest,
    kept_head_counts,
)
from .size_costs import SizeCosts
from .tokens import check_tokens, choose_token_shares, costs_with_tokens
from .whole_parts import choose_head_counts


# Multiples of this are preferred within a budget, unless the user says otherwise.
BUDGET_ROUND_TO = 8


def decide(
    model: SNPModel,
    statistics: CalibrationStatistics,
    config: SNPConfig,
    pixel_values: torch.Tensor | None = None,
    block_losses: list[float | None] | None = None,
) -> list[PruningPlan]:
    """Makes the plan for a model, and those that it is to be held to where it will be reconstructed.

    Args:
        model:
            The dense model in our architecture.
        statistics ([`CalibrationStatistics`]):
            Of this model, reduced over all processes.
        config ([`SNPConfig`]):
            What is asked for.
        pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`, *optional*):
            The first calibration images, on which `token_sparsity="auto"` tries out how many tokens may merge; see
            [`optimum_snp.planning.tokens.held_out_images`].
        block_losses (`list[float | None]`, *optional*):
            What every block loses that goes, where the pruned model will be reconstructed; see
            [`optimum_snp.reconstruction.compensated_losses`].

    Returns:
        `list[PruningPlan]`: One plan; with `token_sparsity="auto"` and `target_flops`, behind the one that loses least
        in closed form, what it is to be held to; see [`optimum_snp.planning.tokens.choose_token_shares`].

    Raises:
        ValueError: If lists of the config do not fit the model, the statistics lack what the config needs, or a budget
            cannot be reached.
        ImportError: If a latency is to be measured on a backend that is not installed.
    """
    check_fits(config, model)
    if config.budget is not None and not statistics.has_sensitivities:
        raise ValueError(
            f"{config.budget} needs the sensitivities of the outputs, and these statistics have none. Call "
            "calibrate(dataset) again, without moments=False or sensitivities=False."
        )
    if config.token_sparsity == AUTO and pixel_values is None:
        raise ValueError(
            "token_sparsity='auto' tries out on images how many tokens may merge, and loaded statistics have "
            "none. Call calibrate(dataset), or name the share of the tokens."
        )
    method = method_of(config)
    method.check_statistics(statistics)
    minimum, round_to = _minimum_sizes(config, model), config.round_to or BUDGET_ROUND_TO
    counts = fixed_head_counts(model.config, statistics, config, block_losses)
    weighed = None
    if AUTO in (config.head_sparsity, config.dropped_blocks):
        weighed = _scores_and_losses(model, statistics, config)
        counts = choose_head_counts(model, statistics, *weighed, config, counts, minimum, round_to, block_losses)
    remaining = RemainingModel.of(
        model, statistics, choose_heads(model, statistics, config, counts), refits=method.refits
    )
    if weighed is None or remaining.model is not model:
        weighed = _scores_and_losses(remaining.model, remaining.statistics, config)
    scores, losses = weighed
    merged = merged_tokens(
        0.0 if config.token_sparsity == AUTO else config.token_sparsity, model.config, remaining.kept_blocks
    )
    if config.budget is None:
        return [make_plan(model, scores, config, heads=remaining.heads, merged=merged)]
    minimum = remaining.from_dense(minimum, dense_sizes(remaining.model.config))
    allocator = allocate
    if config.layout == NATIVE_LAYOUT:
        minimum = native_minimum(minimum, remaining.model.config)
        allocator = partial(allocate_native, model_config=remaining.model.config)

    def of_all_blocks(merged: list[int]) -> list[int]:
        counts = dict(zip(remaining.kept_blocks, merged, strict=True))
        return [counts.get(index, 0) for index in range(len(block_sizes(model.config)))]

    def plan_with(sizes: Sizes, merged: list[int]) -> PruningPlan:
        sizes = remaining.to_dense(sizes)
        return make_plan(model, scores, config, heads=remaining.heads, sizes=sizes, merged=of_all_blocks(merged))

    def choose_tokens(costs_of: CostsOfMerging, target: float) -> list[list[int]]:
        if config.token_sparsity != AUTO:
            return [[merged[index] for index in remaining.kept_blocks]]
        num_left = len(remaining.kept_blocks)
        change = ChangeOfOutputs(model, [pixel_values])
        of_others = statistics.without(statistics_of_batch(model, pixel_values))

        def merging(share: float) -> list[int]:
            return merged_tokens(share, remaining.model.config, list(range(num_left)))

        def measure(sizes: Sizes, share: float) -> float:
            return change.of(method.reshape(model, plan_with(sizes, merging(share)), of_others))

        shares = choose_token_shares(
            remaining.model,
            costs_of,
            target,
            lambda costs, target: allocator(costs, losses, target, minimum, round_to),
            measure,
        )
        return [merging(share) for share in shares]

    if config.budget == "target_latency":
        with torch.random.fork_rng(devices=[]):  # models to measure have random weights
            plan = plan_within_latency(
                model,
                remaining.model,
                config,
                losses,
                minimum,
                round_to,
                allocator,
                lambda costs_of, target: choose_tokens(costs_of, target)[0],  # each plan is measured whole: one is
                plan_with,
            )
            return [plan]
    unit = BUDGETS[config.budget]
    allowed = getattr(config, config.budget) * _cost(model, unit)

    def costs_of(merged: list[int]) -> SizeCosts:
        return costs_with_tokens(remaining.model, merged, unit)

    def plan_within(merged: list[int]) -> PruningPlan:
        return _plan_within(
            model, config, costs_of(merged), losses, minimum, round_to, allocator, partial(plan_with, merged=merged)
        )

    chosen, *rivals = choose_tokens(costs_of, allowed)
    plans = [plan_within(chosen)]
    for rival in rivals:
        with contextlib.suppress(ValueError):  # one that fits but for the few weights that a narrower stream adds
            plans.append(plan_within(rival))
    return plans


def make_plan(
    model: SNPModel,
    scores: Scores,
    config: SNPConfig,
    *,
    heads: list[list[int]] | None = None,
    sizes: Sizes | None = None,
    merged: list[int] | None = None,
) -> PruningPlan:
    """Keeps the neurons with the highest scores, as many as `sizes`, or else the shares of `config`, say.

    Args:
        model:
            The dense model in our architecture.
        scores ([`Scores`]):
            Of this model without the heads and blocks that go as a whole.
        config ([`SNPConfig`]):
            What is asked for; the plan records it.
        heads (`list[list[int]]`, *optional*):
            Per block the heads that stay, none of a block that is dropped. Defaults to all.
        sizes (`dict[Slot, int]`, *optional*):
            The sizes that stay.
        merged (`list[int]`, *optional*):
            Per block how many tokens it merges. Defaults to none.

    Returns:
        [`PruningPlan`]

    Raises:
        ValueError: If a list of shares does not fit the blocks or stages of the model.
    """
    method = method_of(config)
    sizes = sizes_of_shares(config, model.config) if sizes is None else sizes
    stages = block_stages(model.config)
    blocks = []
    scores_of_blocks = zip(scores.query_key, scores.value, scores.mlp, strict=True)
    for index, before in enumerate(block_sizes(model.config)):
        kept = list(range(before["num_attention_heads"])) if heads is None else heads[index]
        if not kept:
            blocks.append(BlockPlan(dict(before), None, heads=[], query_key=[], value=[], mlp=[], stage=stages[index]))
            continue
        after = {**before, "num_attention_heads": len(kept)}
        after |= {part.size_name: sizes[part, index] for part in NEURON_PARTS}
        if merged is not None and merged[index]:
            after["merged_tokens"] = merged[index]
        query_key, value, mlp = next(scores_of_blocks)
        blocks.append(
            BlockPlan(
                before=dict(before),
                after=after,
                heads=kept,
                query_key=_kept_query_key(query_key, after["qk_head_dim"], method, query_key_step(model.config)),
                value=_kept_of_heads(value, after["v_head_dim"], method),
                mlp=keep_highest(mlp, after["intermediate_size"]),
                stage=stages[index],
            )
        )
    widths = []
    for index, before in enumerate(stream_widths(model.config)):
        after = sizes[Part.WIDTH, index]
        rotated = method.keeps_directions and after < before
        kept = PROJECTED if rotated else keep_highest(scores.widths[index], after)
        widths.append(WidthPlan(before, after, kept))
    plan = PruningPlan(
        config=config,
        widths=widths,
        blocks=blocks,
        macs_before=count_macs(model),
        macs_after=0,
        parameters_before=count_parameters(model),
        parameters_after=0,
    )
    pruned = skeleton(type(model), plan.pruned_config(model.config))
    plan.macs_after, plan.parameters_after = count_macs(pruned), count_parameters(pruned)
    return plan


def check_fits(config: SNPConfig, model: SNPModel) -> None:
    """Tells before any work whether a config can be planned for a model.

    Raises:
        ValueError: If a list of shares does not fit the blocks or stages of the model, or there is no block of a
            number in `frozen_blocks` or `dropped_blocks`, or too few blocks would stay, or the sizes would not fit the
            layout.
        ImportError: If a latency is to be measured on a backend that is not installed.
    """
    if config.target_latency is not None and config.latency_backend in FORMAT_OF_RUNTIME:
        check_packages(FORMAT_OF_RUNTIME[config.latency_backend])
    check_tokens(config, model.config)
    check_copies(config.reconstruction_copies, model.config)
    _check_whole_parts(config, model.config)
    sizes_of_shares(config, model.config)
    kept_head_counts(config, model.config)
    check_dropped_blocks(config, model.config)
    num_blocks = len(block_sizes(model.config))
    for block in config.frozen_blocks:
        if block >= num_blocks:
            raise ValueError(f"frozen_blocks has {block}, but the model has blocks 0 to {num_blocks - 1}.")
    if config.layout == NATIVE_LAYOUT:
        check_native(config, model, _minimum_sizes(config, model))


def _check_whole_parts(config: SNPConfig, model_config: PretrainedConfig) -> None:
    """Refuses shares of parts that never get smaller in a model of this kind."""
    whole = whole_parts(model_config)
    for name, reason in whole.items():
        share = getattr(config, name)
        if _removes(share):
            others = [*(other for other in SHARES if other not in whole), "head_sparsity"]
            raise ValueError(
                f"{name} is {share}, but {reason}. Leave it out; {', '.join(others)} and dropped_blocks can be had."
            )


def _removes(shares: float | list) -> bool:
    return any(map(_removes, shares)) if isinstance(shares, list) else shares > 0


def _kept_of_heads(scores: torch.Tensor, size: int, method: Method) -> list[list[int]] | str:
    """The kept neurons of each head; no neurons where directions are kept."""
    if method.keeps_directions and size < scores.shape[1]:
        return PROJECTED
    return [keep_highest(head, size) for head in scores]


def _kept_query_key(scores: torch.Tensor, size: int, method: Method, step: int) -> list[list[int]] | str:
    """The same of queries and keys, whose neurons may stay together in pairs, half a head apart."""
    if step == 1:
        return _kept_of_heads(scores, size, method)
    num_pairs = scores.shape[1] // step
    firsts = [keep_highest(head[:num_pairs], size // step) for head in scores]
    return [[*kept, *(num_pairs + pair for pair in kept)] for kept in firsts]


def _scores_and_losses(
    model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig
) -> tuple[Scores, Losses | None]:
    """The scores of all parts, and with a budget the losses of all sizes."""
    method = method_of(config)
    scores = method.score(model, statistics, config)
    return scores, method.loss(model, statistics, scores) if config.budget else None


def _plan_within(
    model: SNPModel,
    config: SNPConfig,
    costs: SizeCosts,
    losses: Losses,
    minimum: Sizes,
    round_to: int,
    allocate: Allocator,
    plan_of: Callable[[Sizes], PruningPlan],
) -> PruningPlan:
    """Spends the budget of the dense `model` on what is left of it, whose sizes `costs` counts."""
    dense = _cost(model, costs.unit)
    allowed = target = getattr(config, config.budget) * dense
    while True:
        sizes = allocate(costs, losses, target, minimum, round_to)
        plan = plan_of(sizes)
        spent = plan.macs_after if costs.unit == "macs" else plan.parameters_after
        if spent <= allowed:
            return plan
        if sizes == minimum:
            least = math.ceil(10_000 * spent / dense) / 10_000
            raise ValueError(
                f"{config.budget}={getattr(config, config.budget)} cannot be reached: the least sizes allowed leave "
                f"{least}. Raise the budget, or lower minimum sizes and unfreeze blocks or parts."
                f"{hint_of_whole_parts(config, model.config)}"
            )
        # For the few weights that a narrower stream adds, which the costs do not know.
        target = costs.total(sizes) - (spent - allowed)


def _cost(model: SNPModel, unit: str) -> int:
    """What a model costs in the unit of its budget."""
    return count_macs(model) if unit == "macs" else count_parameters(model)


def _minimum_sizes(config: SNPConfig, model: SNPModel) -> Sizes:
    """The least size that every part may get; that of the dense model where the user wants it left alone."""
    least = {
        Part.QUERY_KEY: config.minimum_qk_head_dim,
        Part.VALUE: config.minimum_v_head_dim,
        Part.MLP: config.minimum_intermediate_size,
        Part.WIDTH: config.minimum_hidden_size,
    }
    minimum, streams, step = {}, describe(model).streams, query_key_step(model.config)
    whole = whole_parts(model.config)
    least[Part.QUERY_KEY] = math.ceil(config.minimum_qk_head_dim / step) * step
    for (part, index), size in dense_sizes(model.config).items():
        in_frozen_block = part is not Part.WIDTH and index in config.frozen_blocks
        is_output = part is Part.WIDTH and streams[index].is_output
        frozen = part.share_name in (*config.frozen_parts, *whole) or in_frozen_block or is_output
        minimum[part, index] = size if frozen else min(size, least[part])
    return minimum

"""From what the user asks for to a plan: sizes from shares or a budget, and the neurons with the highest scores."""

from collections.abc import Callable

import torch
from transformers import PretrainedConfig

from ..calibration import CalibrationStatistics
from ..configuration import BUDGETS, SNPConfig
from ..exporting.onnx import check_onnx_packages
from ..models import SNPModel
from ..scoring import Scores, compute_scores
from ..structure import block_sizes, block_stages, stream_widths
from .budget import allocate
from .costs import count_macs, count_parameters, skeleton
from .latency import plan_within_latency
from .losses import Losses, compute_losses
from .plan import PROJECTED, BlockPlan, PruningPlan, WidthPlan
from .size_costs import SizeCosts
from .sizes import PART_SIZES, WIDTH, Sizes, dense_sizes, sizes_of_shares


# Multiples of this are preferred within a budget, unless the user says otherwise.
BUDGET_ROUND_TO = 8


def decide(model: SNPModel, statistics: CalibrationStatistics, config: SNPConfig) -> PruningPlan:
    """Makes the plan for a model.

    Args:
        model:
            The dense model in our architecture.
        statistics ([`CalibrationStatistics`]):
            Of this model, reduced over all processes.
        config ([`SNPConfig`]):
            What is asked for.

    Returns:
        [`PruningPlan`]

    Raises:
        ValueError: If lists of the config do not fit the model, the statistics lack what the config needs, or a budget
            cannot be reached.
        ImportError: If a latency is to be measured on a backend that is not installed.
    """
    check_fits(config, model.config)
    budget = config.budget
    if budget is not None and not statistics.has_sensitivities:
        raise ValueError(
            f"{budget} needs the sensitivities of the outputs, and these statistics have none. Call "
            "calibrate(dataset) again, without moments=False or sensitivities=False."
        )
    scores = compute_scores(model, statistics, config)
    if budget is None:
        return make_plan(model, scores, config)
    losses = compute_losses(model, statistics, scores, config)
    minimum, round_to = _minimum_sizes(config, model.config), config.round_to or BUDGET_ROUND_TO

    def plan_of(sizes: Sizes) -> PruningPlan:
        return make_plan(model, scores, config, sizes)

    if budget == "target_latency":
        return plan_within_latency(model, config, losses, minimum, round_to, plan_of)
    return _plan_within(config, SizeCosts(model, BUDGETS[budget]), losses, minimum, round_to, plan_of)


def make_plan(model: SNPModel, scores: Scores, config: SNPConfig, sizes: Sizes | None = None) -> PruningPlan:
    """Keeps the neurons with the highest scores, as many as `sizes`, or else the shares of `config`, say.

    Args:
        model:
            The dense model in our architecture.
        scores ([`Scores`]):
            Of this model.
        config ([`SNPConfig`]):
            What is asked for; the plan records it.
        sizes (`dict[Part, int]`, *optional*):
            The sizes that stay.

    Returns:
        [`PruningPlan`]

    Raises:
        ValueError: If a list of shares does not fit the blocks or stages of the model.
    """
    sizes = sizes_of_shares(config, model.config) if sizes is None else sizes
    stages = block_stages(model.config)
    blocks = []
    for index, before in enumerate(block_sizes(model.config)):
        after = {**before, **{name: sizes[part, index] for part, name in PART_SIZES.items()}}
        blocks.append(
            BlockPlan(
                before=dict(before),
                after=after,
                query_key=_kept_of_heads(scores.query_key[index], after["qk_head_dim"], config.method),
                value=_kept_of_heads(scores.value[index], after["v_head_dim"], config.method),
                mlp=keep_highest(scores.mlp[index], after["intermediate_size"]),
                stage=stages[index],
            )
        )
    widths = []
    for index, before in enumerate(stream_widths(model.config)):
        after = sizes[WIDTH, index]
        rotated = config.method == "projection" and after < before
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


def check_fits(config: SNPConfig, model_config: PretrainedConfig) -> None:
    """Tells before any work whether a config can be planned for a model.

    Raises:
        ValueError: If a list of shares does not fit the blocks or stages of the model, or there is no block of a
            number in `frozen_blocks`.
        ImportError: If a latency is to be measured on a backend that is not installed.
    """
    if config.target_latency is not None and config.latency_backend == "onnxruntime":
        check_onnx_packages()
    sizes_of_shares(config, model_config)
    num_blocks = len(block_sizes(model_config))
    for block in config.frozen_blocks:
        if block >= num_blocks:
            raise ValueError(f"frozen_blocks has {block}, but the model has blocks 0 to {num_blocks - 1}.")


def keep_highest(scores: torch.Tensor, count: int) -> list[int]:
    """The positions of the `count` highest of `scores`, rising; of equal scores the first stays."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def _kept_of_heads(scores: torch.Tensor, size: int, method: str) -> list[list[int]] | str:
    """The kept neurons of each head; no neurons where directions are kept."""
    if method == "projection" and size < scores.shape[1]:
        return PROJECTED
    return [keep_highest(head, size) for head in scores]


def _plan_within(
    config: SNPConfig,
    costs: SizeCosts,
    losses: Losses,
    minimum: Sizes,
    round_to: int,
    plan_of: Callable[[Sizes], PruningPlan],
) -> PruningPlan:
    allowed = target = getattr(config, config.budget) * costs.total(costs.sizes)
    while True:
        plan = plan_of(allocate(costs, losses, target, minimum, round_to))
        spent = plan.macs_after if costs.unit == "macs" else plan.parameters_after
        if spent <= allowed:
            return plan
        if sizes == minimum:
            dense = plan.macs_before if costs.unit == "macs" else plan.parameters_before
            raise ValueError(
                f"{config.budget}={getattr(config, config.budget)} cannot be reached: the least sizes allowed leave "
                f"{spent / dense:.4f}. Raise the budget, or lower minimum sizes and unfreeze blocks or parts."
            )
        target -= spent - allowed  # for the few weights that a narrower stream adds, which the costs do not know


def _minimum_sizes(config: SNPConfig, model_config: PretrainedConfig) -> Sizes:
    """The least size that every part may get; that of the dense model where the user wants it left alone."""
    least = {
        "qk_sparsity": config.minimum_qk_head_dim,
        "v_sparsity": config.minimum_v_head_dim,
        "mlp_sparsity": config.minimum_intermediate_size,
        WIDTH: config.minimum_hidden_size,
    }
    minimum = {}
    for (part, index), size in dense_sizes(model_config).items():
        frozen = part in config.frozen_parts or (part != WIDTH and index in config.frozen_blocks)
        minimum[part, index] = size if frozen else min(size, least[part])
    return minimum

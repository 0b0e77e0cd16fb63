"""What baselines share: the sizes of a plan of ours, with other neurons."""

from collections.abc import Sequence

import torch

from optimum_snp import PruningPlan, SNPConfig
from optimum_snp.models import SNPModel, build_like
from optimum_snp.plan.sizes import NEURON_PARTS, Part, Sizes
from optimum_snp.planning.decide import make_plan
from optimum_snp.reshaping.select import Weights
from optimum_snp.scoring import Scores
from optimum_snp.structure import describe


def sizes_of(plan: PruningPlan) -> Sizes:
    """The kept sizes of a plan that leaves every block and head."""
    sizes: Sizes = {(Part.WIDTH, index): width.after for index, width in enumerate(plan.widths)}
    for index, block in enumerate(plan.blocks):
        sizes |= {(part, index): block.after[part.size_name] for part in NEURON_PARTS}
    return sizes


def pruned_parts(plan: PruningPlan) -> set[Part]:
    """The parts that lose something."""
    parts = {Part.WIDTH for width in plan.widths if width.after < width.before}
    for block in plan.blocks:
        parts |= {part for part in NEURON_PARTS if block.after[part.size_name] < block.before[part.size_name]}
    return parts


def plan_of_sizes(
    dense: SNPModel,
    plan: PruningPlan,
    *,
    mlp: Sequence[torch.Tensor] | None = None,
    query_key: Sequence[torch.Tensor] | None = None,
) -> PruningPlan:
    """A plan of the same sizes that keeps the neurons with the highest of these scores; the first ones without."""
    blocks = describe(dense).blocks
    first = [torch.arange(block.intermediate_size, 0, -1).double() for block in blocks]

    def first_of_heads(name: str) -> list[torch.Tensor]:
        return [
            torch.arange(getattr(block, name), 0, -1).double().repeat(block.num_attention_heads, 1) for block in blocks
        ]

    scores = Scores(
        query_key=list(query_key) if query_key is not None else first_of_heads("qk_head_dim"),
        value=first_of_heads("v_head_dim"),
        mlp=list(mlp) if mlp is not None else first,
        widths=[torch.arange(width.before, 0, -1).double() for width in plan.widths],
    )
    return make_plan(dense, scores, SNPConfig(method="snp"), sizes=sizes_of(plan))


def double_weights(model: SNPModel) -> Weights:
    """All weights in float64."""
    return {name: weight.detach().cpu().double() for name, weight in model.state_dict().items()}


def build(dense: SNPModel, plan: PruningPlan, weights: Weights) -> SNPModel:
    """The pruned model of new weights."""
    return build_like(dense, type(dense), plan.pruned_config(dense.config), weights)

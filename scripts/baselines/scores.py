"""Pruning by any score of weight rows, through the plans of this library: random and magnitude are two of them."""

from collections.abc import Callable

import torch

from optimum_snp import PruningPlan, SNPConfig
from optimum_snp.models import SNPViTForImageClassification
from optimum_snp.planning.decide import make_plan
from optimum_snp.reshaping import select_neurons
from optimum_snp.scoring import Scores


Model = SNPViTForImageClassification
Shares = dict[str, float]
RowScore = Callable[[torch.Tensor], torch.Tensor]


def prune_by_scores(dense: Model, shares: Shares, score: RowScore) -> Model:
    """Keeps the neurons for which `score`, given the rows of weights `[neurons, inputs]`, is highest."""
    return select_neurons(dense, plan_by_scores(dense, shares, score))


def plan_by_scores(dense: Model, shares: Shares, score: RowScore) -> PruningPlan:
    """The plan of [`prune_by_scores`]: query and key rows side by side, and all that writes the residual stream."""
    layers, embeddings = dense.base_model.layers, dense.base_model.embeddings
    writers = [embeddings.patch_embeddings.projection.weight.flatten(1), embeddings.position_embeddings[0].T]
    writers += [weight for layer in layers for weight in (layer.attention.o_proj.weight, layer.mlp.fc2.weight)]

    def per_head(layer: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return score(rows.detach()).view(layer.attention.num_attention_heads, -1)

    scores = Scores(
        query_key=[
            per_head(layer, torch.cat((layer.attention.q_proj.weight, layer.attention.k_proj.weight), dim=1))
            for layer in layers
        ],
        value=[per_head(layer, layer.attention.v_proj.weight) for layer in layers],
        mlp=[score(layer.mlp.fc1.weight.detach()) for layer in layers],
        widths=[score(torch.cat(writers, dim=1).detach())],
    )
    return make_plan(dense, scores, SNPConfig(**shares))


def l2_norm(rows: torch.Tensor) -> torch.Tensor:
    """Magnitude: the L2 norm of every row."""
    return torch.linalg.vector_norm(rows, dim=1)

"""The criterion for the channels of the residual stream, pruned with one index set for the whole network.

Source: SNP (arXiv 2404.11630), graph-aware pruning. The paper does not state the base score of these
layers; this is our reading of the published options `policy=AVERAGE, layer_norm=TSS_NORM`: the redundancy of the
output rows of everything that writes the stream, each producer normalised by its total, averaged over producers.
"""

import torch

from ..models import SNPViTModel
from .redundancy import redundancy_scores


def residual_scores(base_model: SNPViTModel) -> torch.Tensor:
    """The score of every channel of the residual stream.

    Args:
        base_model ([`SNPViTModel`]):
            The network without its classifier.

    Returns:
        `torch.Tensor` of shape `[hidden_size]`: float64, summing to 1.
    """
    scores = torch.stack([redundancy_scores(rows) for rows in _producer_rows(base_model)])
    totals = scores.sum(dim=1, keepdim=True)
    # A producer whose rows all point one way ranks no channel above another.
    shares = torch.where(totals > 0, scores / totals, 1 / scores.shape[1])
    return shares.mean(dim=0)


def _producer_rows(base_model: SNPViTModel) -> list[torch.Tensor]:
    """The output rows, `[hidden_size, inputs]`, of everything that is added into the residual stream."""
    embeddings = base_model.embeddings
    # Class, distillation and position embeddings are one producer whose inputs are the tokens.
    tokens = [embeddings.cls_token, embeddings.position_embeddings]
    if embeddings.distillation_token is not None:
        tokens.append(embeddings.distillation_token)
    rows = [embeddings.patch_embeddings.projection.weight.flatten(1), torch.cat(tokens, dim=1)[0].T]
    for layer in base_model.layers:
        rows += [layer.attention.o_proj.weight, layer.mlp.fc2.weight]
    return rows

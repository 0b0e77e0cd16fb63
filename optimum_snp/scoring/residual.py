"""The criterion for the channels of a residual stream, pruned with one index set for everything that touches it.

Source: SNP (arXiv 2404.11630), graph-aware pruning. The paper does not state the base score of these
layers; this is our reading of the published options `policy=AVERAGE, layer_norm=TSS_NORM`: the redundancy of the
output rows of everything that writes the stream, each producer normalised by its total, averaged over producers. In
Swin every stage has a stream of its own, and the patch merging before a stage is one of its producers.
"""

import torch

from ..models import SNPModel
from ..structure import Stream
from .redundancy import redundancy_scores


def residual_scores(model: SNPModel, stream: Stream) -> torch.Tensor:
    """The score of every channel of a residual stream.

    Args:
        model:
            A model of our architecture.
        stream ([`Stream`]):
            One of its streams.

    Returns:
        `torch.Tensor` of shape `[width]`: float64, summing to 1.
    """
    scores = torch.stack([redundancy_scores(rows) for rows in producer_rows(model, stream)])
    totals = scores.sum(dim=1, keepdim=True)
    # A producer whose rows all point one way ranks no channel above another.
    shares = torch.where(totals > 0, scores / totals, 1 / scores.shape[1])
    return shares.mean(dim=0)


def producer_rows(model: SNPModel, stream: Stream) -> list[torch.Tensor]:
    """The output rows, `[width, inputs]`, of everything that is added into the residual stream."""
    rows = [model.get_submodule(writer).weight.flatten(1) for writer in stream.writers]
    if stream.vectors:
        # Class, distillation and position embeddings are one producer whose inputs are the tokens.
        vectors = [model.get_parameter(vector).flatten(0, -2) for vector in stream.vectors]
        rows.append(torch.cat(vectors).T)
    return rows

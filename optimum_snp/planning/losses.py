"""What every size of every part would cost the outputs: the losses that a budget weighs against each other.

Each loss is the mean over the calibration images of the squared change of the model's outputs (logits, or features
where there are none) when one part alone gets one size, to first order: the second moment of the change that pruning
makes to the part, by the sensitivity of the outputs to changes there. The changes are those of the method, in closed
form, refits included. Losses of different parts count as additive.

Parts whose neurons are kept in the order of their scores, the highest first, need one factorisation for all sizes:
with `C = L L^T` the covariance of the neurons in that order, the error of a reader `W` refitted to the first `r` of
them is `sum_(k >= r) |W L_k|^2` over the columns of `L`.

Source: our choice. On two models trained on digits the losses of single parts rank as what pruning them does to the
logits (docs/budgets.md).
"""

from dataclasses import dataclass

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import RIDGE, Sums, covariance_and_mean
from ..configuration import SNPConfig
from ..linear_algebra import parallel_map, ridge_cholesky
from ..models import SNPModel
from ..reshaping.project import project_output, project_scores
from ..reshaping.refit import refit_linear
from ..reshaping.width import axes_of_stream
from ..scoring import Scores
from ..structure import Block, Stream, describe


@dataclass
class Losses:
    """The loss of every size, `[size + 1]`, float64; entry `r` is that of `r` neurons kept, so the last is 0.

    Attributes:
        query_key, value, mlp (`list[torch.Tensor]`):
            One per block; sizes are per head for the first two.
        widths (`list[torch.Tensor]`):
            One per residual stream.
    """

    query_key: list[torch.Tensor]
    value: list[torch.Tensor]
    mlp: list[torch.Tensor]
    widths: list[torch.Tensor]


def compute_losses(model: SNPModel, statistics: CalibrationStatistics, scores: Scores, config: SNPConfig) -> Losses:
    """Computes the losses of all sizes of all parts for the method of `config`.

    Args:
        model:
            The dense model in our architecture.
        statistics ([`CalibrationStatistics`]):
            Of this model, with moments and sensitivities.
        scores ([`Scores`]):
            Of this model, for the same config.
        config ([`SNPConfig`]):
            Of which `method` is read.

    Returns:
        [`Losses`]
    """
    structure = describe(model)
    losses = Losses([], [], [], [])
    losses.query_key = parallel_map(
        lambda block: _query_key_loss(*block, config.method), zip(statistics.blocks, scores.query_key, strict=True)
    )
    for index, (block, sums) in enumerate(zip(structure.blocks, statistics.blocks, strict=True)):
        losses.value.append(_value_loss(block, sums, scores.value[index], config.method))
        losses.mlp.append(_mlp_loss(block, sums, scores.mlp[index], config.method))
    for stream, width_scores in zip(structure.streams, scores.widths, strict=True):
        losses.widths.append(_width_loss(stream, statistics, width_scores, config.method))
    return losses


def nested_errors(moment: torch.Tensor, readers: torch.Tensor, order: torch.Tensor, *, refit: bool) -> torch.Tensor:
    """The squared error per row of a linear layer that keeps only the first neurons of an order, for every number.

    Args:
        moment (`torch.Tensor` of shape `[n, n]`):
            Of its inputs, float64: the covariance with refit, since the bias takes the means; else the second moment.
        readers (`torch.Tensor` of shape `[outputs, n]`):
            The layer.
        order (`torch.Tensor` of shape `[n]`):
            Its inputs, kept first first.
        refit (`bool`):
            Whether the layer is refitted to the inputs that it keeps.

    Returns:
        `torch.Tensor` of shape `[n + 1]`: float64; entry `r` keeps `r` inputs.
    """
    moment, readers = moment[order][:, order], readers.double()[:, order]
    if refit:
        factor = ridge_cholesky(moment, RIDGE)
        return _tails((readers @ factor).square().sum(dim=0))
    products = moment * (readers.T @ readers)
    # The sum over all pairs of dropped inputs grows, from the last input on, by one row and column at a time.
    pairs = products.triu(1).sum(dim=1) * 2 + products.diagonal()
    return _tails(pairs).clamp_min(0)


def _tails(terms: torch.Tensor) -> torch.Tensor:
    """`[n] -> [n + 1]`: the sums of all terms from each position on, and 0."""
    return torch.cat((terms.flip(0).cumsum(0).flip(0), terms.new_zeros(1)))


def _by_rank(scores: torch.Tensor) -> torch.Tensor:
    """The neurons of all heads, `[heads * head_dim]`: the best of every head first, then the second best of each."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    heads, head_dim = scores.shape
    return (order + head_dim * torch.arange(heads).unsqueeze(1)).T.flatten()


def _query_key_loss(sums: Sums, scores: torch.Tensor, method: str) -> torch.Tensor:
    """Pruning makes scores `Q X K^T` of `Q K^T`, as if the queries had changed by `Q (X - I)`."""
    head_dim = scores.shape[1]
    sensitivity = sums["query_sensitivity"] / sums["sensitivity_images"].clamp_min(1)
    query_moment = sums["query_moment"] / sums["query_num_tokens"].clamp_min(1)
    loss = torch.zeros(head_dim + 1, dtype=torch.float64)
    for head in range(len(scores)):
        order = scores[head].argsort(descending=True, stable=True)
        moments = sums["query_moment"][head], sums["key_moment"][head]
        if method == "projection":
            loss += _projected_scores_loss(*moments, query_moment[head], sensitivity[head])
            continue
        for size in range(head_dim):
            kept = order[:size]
            change = _kept_map(*moments, kept, refit=method != "snp") - torch.eye(head_dim, dtype=torch.float64)
            loss[size] += ((change.T @ query_moment[head] @ change) * sensitivity[head]).sum()
    return loss


def _projected_scores_loss(
    query_sum: torch.Tensor, key_sum: torch.Tensor, query_moment: torch.Tensor, sensitivity: torch.Tensor
) -> torch.Tensor:
    """The kept directions of the scores are nested, and the queries along them uncorrelated: a sum over those gone."""
    query_map, key_map = project_scores(query_sum, key_sum, len(query_sum))
    # Column by column, X = query_map key_map^T: direction j adds its query, and what the output makes of its key.
    queries = (query_map.T @ query_moment * query_map.T).sum(dim=1)
    answers = (key_map.T @ sensitivity * key_map.T).sum(dim=1)
    return _tails(queries * answers)


def _kept_map(query_sum: torch.Tensor, key_sum: torch.Tensor, kept: torch.Tensor, *, refit: bool) -> torch.Tensor:
    """`X` when the pairs `kept` stay, `[head_dim, head_dim]`."""
    identity = torch.eye(len(query_sum), dtype=torch.float64)
    if not refit or not len(kept):
        return identity[:, kept] @ identity[kept]
    zero = torch.zeros(len(query_sum), dtype=torch.float64)
    query_side, key_side = (
        identity[:, kept] @ refit_linear(identity, zero, moment, zero, kept, identity[:, kept])[0].T
        for moment in (query_sum, key_sum)
    )
    return query_side @ key_side.T


def _value_loss(block: Block, sums: Sums, scores: torch.Tensor, method: str) -> torch.Tensor:
    heads, head_dim = scores.shape
    readers = block.module.attention.o_proj.weight.detach().cpu().double()
    order = _by_rank(scores)
    if method == "snp":
        moment = sums["context_moment"] / sums["context_num_tokens"].clamp_min(1)
    else:
        moment, _ = covariance_and_mean(sums, "context_")
    if method == "projection":
        # In the basis of all directions of every head, kept directions are kept neurons.
        maps, readers_of_maps = [], []
        for head in range(heads):
            rows = slice(head * head_dim, (head + 1) * head_dim)
            values = project_output(moment[rows, rows], readers[:, rows], head_dim)
            maps.append(values)
            readers_of_maps.append(torch.linalg.solve(values, readers[:, rows].T).T)
        basis = torch.block_diag(*maps)
        moment, readers = basis.T @ moment @ basis, torch.cat(readers_of_maps, dim=1)
        order = _by_rank(-torch.arange(head_dim, dtype=torch.float64).expand(heads, -1))
    errors = nested_errors(moment, readers, order, refit=method != "snp")
    return errors[::heads] * per_channel(sums, "attention_sensitivity", readers)


def _mlp_loss(block: Block, sums: Sums, scores: torch.Tensor, method: str) -> torch.Tensor:
    readers = block.module.mlp.fc2.weight.detach().cpu().double()
    if method == "snp":
        moment = sums["mlp_moment"] / sums["mlp_num_tokens"].clamp_min(1)
    else:
        moment, _ = covariance_and_mean(sums, "mlp_")
    order = scores.argsort(descending=True, stable=True)
    errors = nested_errors(moment, readers, order, refit=method != "snp")
    return errors * per_channel(sums, "mlp_sensitivity", readers)


def per_channel(sums: Sums, name: str, readers: torch.Tensor) -> torch.Tensor:
    """The squared change of the outputs for an error of one per token in the squared length of what a layer adds."""
    return sums[name] / sums["sensitivity_images"].clamp_min(1) / len(readers)


def _width_loss(stream: Stream, statistics: CalibrationStatistics, scores: torch.Tensor, method: str) -> torch.Tensor:
    """The sum over all norms of the stream of what their readers lose."""
    basis = torch.eye(stream.width, dtype=torch.float64)
    if method == "projection":
        basis = axes_of_stream(stream, statistics)
        order = torch.arange(stream.width)
    else:
        order = scores.argsort(descending=True, stable=True)
    loss = torch.zeros(stream.width + 1, dtype=torch.float64)
    for norm in stream.norms:
        sums = statistics.norms[norm.name]
        if method == "snp":
            moment = sums["moment"] / sums["num_tokens"].clamp_min(1)
        else:
            moment, _ = covariance_and_mean(sums)
        repeated = torch.block_diag(*[basis] * norm.repeats)
        moment = repeated.T @ moment @ repeated
        # Of the tokens side by side, the same channel goes in all.
        rows = (order.unsqueeze(1) + stream.width * torch.arange(norm.repeats)).flatten()
        errors = nested_errors(moment, torch.eye(len(moment), dtype=torch.float64), rows, refit=method != "snp")
        per_channel = sums["sensitivity"] / sums["sensitivity_images"].clamp_min(1) / len(moment)
        loss += errors[:: norm.repeats] * per_channel
    return loss

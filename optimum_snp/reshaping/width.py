"""The width of the residual streams in closed form.

A stream keeps a few directions, the columns of a matrix `S`: channels (`method="snp-refit"`) or principal axes
(`"projection"`). All that writes the stream is multiplied by `S` once and for all. A layer norm's scale and shift go
into what reads it, since they do not pass a rotation.

The axes are those of what the norms put out, summed over all norms of the stream. A layer norm also subtracts the mean
over the channels, which an arbitrary rotation would hide from it. So the one direction that a rotation must not touch,
that of equal channels, stays that of equal channels: the leading axes are taken from the rest. A layer norm of fewer
channels then subtracts exactly the mean that the dense one subtracts, also where four tokens lie side by side in one
norm (Swin's patch merging), and with all axes kept the function is the same.

Each reader is then refitted to its dense outputs on what is kept: at one place of the network the axes are
correlated, though they are not in the sum over all places, so that kept ones stand in for dropped ones. On models
trained on digits, dropping 30 % of the axes moves the outputs a quarter as far with the refit (mean KL 0.007 against
0.026); axes of the raw stream are worse, and so is leaving the last norm out of the sum.

Source: the rotation is that of SliceGPT (arXiv 2401.15024), which turns the layer norms into RMS norms; the direction
that is kept instead, the refit and the sum over norms are ours.
"""

import torch

from ..calibration import CalibrationStatistics
from ..calibration.moments import Sums, covariance_and_mean
from ..linear_algebra import ridge_cholesky
from ..structure import Norm, Stream
from .refit import dense_layer, refit_linear
from .select import Weights, keep_inputs, keep_rows, repeat_channels


def reshape_stream(
    weights: Weights,
    stream: Stream,
    directions: torch.Tensor,
    statistics: CalibrationStatistics,
    kept: list[int] | None = None,
) -> None:
    """Rewrites all weights that touch a stream for one of fewer channels.

    Args:
        weights (`dict[str, torch.Tensor]`):
            All weights, float64; blocks may have been reshaped. Changed in place.
        stream ([`Stream`]):
            Of the dense model.
        directions (`torch.Tensor` of shape `[width, kept]`):
            `S`: the new channels are `S^T x`.
        statistics ([`CalibrationStatistics`]):
            With moments.
        kept (`list[int]`, *optional*):
            The channels that `directions` selects. A norm whose output is one of the model then keeps its scale and
            shift; those of a rotation have one scale for all, and no shift.
    """
    for norm in stream.norms:
        if norm.readers:
            _reshape_readers(weights, norm, directions, statistics.norms[norm.name], kept)
        elif kept is not None:
            keep_inputs(weights, norm, kept, stream.width)
        else:
            length = _lengthened(_normed(directions, norm.repeats), statistics.norms[norm.name])
            _scale_alike(weights, norm, directions, length)
    vectors = stream.vectors
    if stream.reduction is not None:
        # The norm does not pass the map: embeddings and norm stay as they are, and the map comes behind them.
        weights[f"{stream.reduction}.weight"], vectors = directions.T.clone(), []
    elif stream.scales:
        _move_behind_the_norm(weights, stream, directions)
    else:
        _map_outputs(weights, stream.writers[0], directions)
    for writer in stream.writers[1:]:
        _map_outputs(weights, writer, directions)
    for vector in vectors:
        weights[vector] = weights[vector] @ directions


def rotation(stream: Stream, statistics: CalibrationStatistics, size: int) -> torch.Tensor:
    """The `size` directions of a stream that its norms put out most, those of equal channels among them.

    The columns are orthogonal and of such length that norms over the new channels divide by the same number as those
    over all channels; equal channels become equal channels.

    Returns:
        `torch.Tensor` of shape `[width, size]`: float64.
    """
    axes = axes_of_stream(stream, statistics)[:, 1:size]
    length = (size / stream.width) ** 0.5
    equal = torch.full((stream.width, size), (stream.width * size) ** -0.5, dtype=torch.float64)
    return length * (equal + axes @ _complement_of_ones(size).T)


def axes_of_stream(stream: Stream, statistics: CalibrationStatistics) -> torch.Tensor:
    """An orthonormal basis of a stream in the order in which directions are kept, `[width, width]`, as columns.

    The first is that of equal channels; the others are principal axes of what the norms put out, by falling energy.
    """
    rest = _complement_of_ones(stream.width)
    energies = rest.T @ stream_moment(stream, statistics) @ rest
    equal = torch.full((stream.width, 1), stream.width**-0.5, dtype=torch.float64)
    return torch.cat((equal, rest @ torch.linalg.eigh(energies).eigenvectors.flip(-1)), dim=1)


def stream_moment(stream: Stream, statistics: CalibrationStatistics) -> torch.Tensor:
    """The second moment `[width, width]` of what the norms of a stream put out, each norm counting the same."""
    total = torch.zeros(stream.width, stream.width, dtype=torch.float64)
    for norm in stream.norms:
        moment = statistics.norms[norm.name]["moment"]
        moment = moment.unflatten(0, (norm.chunks, -1)).unflatten(-1, (norm.chunks, -1))
        moment = moment.diagonal(dim1=0, dim2=2).sum(-1)
        total += moment / moment.trace().clamp_min(torch.finfo(torch.float64).tiny)
    return total


def _complement_of_ones(size: int) -> torch.Tensor:
    """An orthonormal basis `[size, size - 1]` of the vectors whose entries sum to zero (Householder reflection)."""
    normal = torch.full((size,), size**-0.5, dtype=torch.float64)
    normal[0] += 1
    return (torch.eye(size, dtype=torch.float64) - torch.outer(normal, normal) / normal[0])[:, 1:]


def _reshape_readers(
    weights: Weights, norm: Norm, directions: torch.Tensor, sums: Sums, channels: list[int] | None
) -> None:
    """Fits what reads a norm to its dense outputs, given what a norm over the kept directions puts out."""
    scale, shift = _scale_and_shift(weights, norm)
    vectors = len(norm.reads)  # behind the norm, beside each other
    dense_scale, dense_shift = scale.repeat(vectors), shift.repeat(vectors)
    prior = torch.block_diag(*[directions] * norm.chunks)
    kept = torch.block_diag(*[_normed(directions, norm.repeats) if norm.normalizes else directions] * vectors)
    length = _lengthened(kept, sums) if norm.normalizes else torch.tensor(1.0, dtype=torch.float64)
    covariance, mean = covariance_and_mean(sums)
    square = directions.square().sum() / directions.shape[1]  # of the length of a direction

    if not norm.normalizes:
        pass  # there is no scale
    elif not norm.is_output:
        size = directions.shape[1] * norm.repeats
        weights[f"{norm.name}.weight"] = torch.ones(size, dtype=torch.float64)
        weights[f"{norm.name}.bias"] = torch.zeros(size, dtype=torch.float64)
    elif channels is not None:
        keep_rows(weights, norm.name, repeat_channels(channels, len(directions), norm.repeats))
    else:
        _scale_alike(weights, norm, directions, length)
    new_scale, new_shift = (part.repeat(vectors) for part in _scale_and_shift(weights, norm, directions.shape[1]))

    padding = []
    for reader in norm.readers:
        weight = weights[f"{reader}.weight"]
        bias = weights.get(f"{reader}.bias", torch.zeros(len(weight), dtype=torch.float64))
        padding.append(bias)
        weight, bias = weight * dense_scale, bias + weight @ dense_shift
        weight, bias = refit_linear(weight, bias, covariance, mean, kept * length, weight @ prior / (length * square))
        weight = torch.where(new_scale != 0, weight / new_scale, 0.0)
        weights[f"{reader}.weight"], weights[f"{reader}.bias"] = weight, bias - weight @ new_shift
    if norm.pads:
        _keep_padding(weights, norm, padding)


def _scale_and_shift(weights: Weights, norm: Norm, width: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of a norm; of an identity ones and zeros, `[width]`, by default those of the dense stream."""
    if norm.normalizes:
        return dense_layer(weights, norm.name)
    width = width or weights[f"{norm.readers[0]}.weight"].shape[1] // norm.chunks
    return torch.ones(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)


def _normed(directions: torch.Tensor, repeats: int) -> torch.Tensor:
    """What a norm over `repeats` vectors reads of the kept directions: it subtracts their mean."""
    repeated = torch.block_diag(*[directions] * repeats)
    return repeated - repeated.mean(dim=1, keepdim=True)


def _lengthened(kept: torch.Tensor, sums: Sums) -> torch.Tensor:
    """By how much the rest comes out longer: what is dropped is missing from the divisor of the norm, too."""
    moment = sums["moment"] / sums["num_tokens"].clamp_min(1)
    energy = ((kept.T @ moment) * kept.T).sum()
    return (
        (moment.trace() * kept.shape[1] / kept.shape[0] / energy).sqrt() if energy > 0 else torch.tensor(1.0).double()
    )


def _scale_alike(weights: Weights, norm: Norm, directions: torch.Tensor, length: torch.Tensor) -> None:
    """Gives a norm whose directions are rotated what passes a rotation: of its scale only the size, and no shift."""
    size = directions.shape[1]
    square = directions.square().sum() / size
    scale = weights[f"{norm.name}.weight"].square().mean().sqrt() / (length * square.sqrt())
    weights[f"{norm.name}.weight"] = scale.expand(size * norm.repeats).clone()
    weights[f"{norm.name}.bias"] = torch.zeros(size * norm.repeats, dtype=torch.float64)


def _keep_padding(weights: Weights, norm: Norm, padding: list[torch.Tensor]) -> None:
    """Gives the norm the shift with which zeros behind it make the readers put out `padding` again.

    By least squares: exactly where all axes are kept, else as nearly as the kept ones can. The readers' biases take
    the shift back, so that nothing changes for the tokens of the image.
    """
    weight = torch.cat([weights[f"{reader}.weight"] for reader in norm.readers])
    bias = torch.cat([weights[f"{reader}.bias"] for reader in norm.readers])
    factor = ridge_cholesky(weight.T @ weight, 1e-9)
    shift = torch.cholesky_solve((weight.T @ (bias - torch.cat(padding))).unsqueeze(1), factor).squeeze(1)
    weights[f"{norm.name}.bias"] = shift
    for reader in norm.readers:
        weights[f"{reader}.bias"] = weights[f"{reader}.bias"] - weights[f"{reader}.weight"] @ shift


def _move_behind_the_norm(weights: Weights, stream: Stream, directions: torch.Tensor) -> None:
    """Rewrites a patch embedding with a norm behind it: convolution, norm, and a new layer that writes the stream.

    The norm's scale does not pass the map to the kept directions, so that map comes behind the norm. The convolution
    has few inputs, so its outputs fill few dimensions, and the norm needs no more: the function is the same.
    """
    convolution, (norm,) = stream.writers[0], stream.scales
    weight, bias = weights[f"{convolution}.weight"], weights[f"{convolution}.bias"]
    width, size = len(bias), min(len(bias), weight[0].numel() + 2)
    rest = _complement_of_ones(width)
    filled = torch.linalg.svd(rest.T @ torch.cat((weight.flatten(1), bias.unsqueeze(1)), dim=1))[0]
    equal = torch.full((width, size), (width * size) ** -0.5, dtype=torch.float64)
    basis = equal + rest @ filled[:, : size - 1] @ _complement_of_ones(size).T
    length = (size / width) ** 0.5
    weights[f"{convolution}.weight"] = length * torch.tensordot(basis.T, weight, dims=1)
    weights[f"{convolution}.bias"] = length * basis.T @ bias
    reduction = norm.removesuffix("norm") + "reduction"
    scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
    weights[f"{reduction}.weight"] = directions.T @ (scale.unsqueeze(1) * basis) / length
    weights[f"{reduction}.bias"] = directions.T @ shift
    weights[f"{norm}.weight"] = torch.ones(size, dtype=torch.float64)
    weights[f"{norm}.bias"] = torch.zeros(size, dtype=torch.float64)


def _map_outputs(weights: Weights, name: str, directions: torch.Tensor) -> None:
    for part in ("weight", "bias"):
        if f"{name}.{part}" in weights:
            weights[f"{name}.{part}"] = torch.tensordot(directions.T, weights[f"{name}.{part}"], dims=1)

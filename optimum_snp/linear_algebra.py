"""The matrix functions of the closed-form methods, finite for every positive semidefinite matrix, zero included."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


MAX_WORKERS = 4


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """LAPACK on many small matrices, and loops over vectors, run several times slower on two threads than on one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def parallel_map(function: Callable[[Any], Any], items: Iterable[Any], max_workers: int = MAX_WORKERS) -> list[Any]:
    """`[function(item) for item in items]`, several at a time with one thread each.

    For work of many small steps, which gains nothing from more threads on one step. At most `max_workers` at a time,
    a few unless told otherwise, since each may hold several matrices of the square of an MLP's size.
    """
    with ThreadPoolExecutor(min(torch.get_num_threads(), max_workers)) as pool, one_thread():
        return list(pool.map(function, items))


def double(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on its device, or on the CPU where that has none (Apple's GPUs)."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def ridge_cholesky(moment: torch.Tensor, ridge: float) -> torch.Tensor:
    """The lower Cholesky factor of a matrix plus a multiple of the identity.

    Args:
        moment (`torch.Tensor` of shape `[n, n]`):
            Positive semidefinite up to rounding, float64.
        ridge (`float`):
            What is added, relative to the mean of the diagonal. A matrix of zeros becomes the identity.

    Raises:
        ValueError: If the matrix is far from positive semidefinite, as in a file that somebody changed.
    """
    mean = moment.diagonal().mean()
    added = torch.where(mean > 0, ridge * mean, 1.0)
    regular = moment.clone()
    regular.diagonal().add_(added)
    factor, failed = torch.linalg.cholesky_ex(regular)
    if not failed:
        return factor
    # Sums of float32 products can be indefinite by more than the ridge.
    values, vectors = torch.linalg.eigh(moment)
    factor, failed = torch.linalg.cholesky_ex((vectors * (values.clamp_min(0) + added)) @ vectors.mT)
    if failed:
        raise ValueError("These second moments are not those of any activations. Calibrate again.")
    return factor


def root_and_inverse(moment: torch.Tensor, floor: float = 1e-9) -> tuple[torch.Tensor, torch.Tensor]:
    """The symmetric square root of a positive semidefinite matrix, and the inverse of that root.

    Args:
        moment (`torch.Tensor` of shape `[n, n]`):
            Positive semidefinite up to rounding, float64.
        floor (`float`, *optional*):
            Eigenvalues below this share of the largest are raised to it: directions never seen keep a finite inverse.
            A matrix of zeros counts as the identity.
    """
    values, vectors = torch.linalg.eigh(moment)
    largest = values[-1]
    values = torch.where(largest > 0, values.clamp_min(floor * largest), torch.ones_like(values))
    return (vectors * values.sqrt()) @ vectors.mT, (vectors * values.rsqrt()) @ vectors.mT

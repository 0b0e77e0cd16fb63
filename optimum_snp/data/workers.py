"""How many worker processes decode images."""

import multiprocessing
import os

from torch.utils import data as torch_data

from ..processes import process_state
from .pixels import PixelDataset


# Fewer images are decoded sooner than workers start; more workers than these wait for the model.
_LEAST_IMAGES = 256
_MOST_WORKERS = 8


def check_num_workers(num_workers: int | None) -> None:
    """Raises a `ValueError` for what is no number of workers."""
    if num_workers is not None and (
        isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0
    ):
        raise ValueError(f"num_workers must be an integer from 0, or None for a choice by us, got {num_workers!r}.")


def choose_num_workers(num_workers: int | None, dataset: torch_data.Dataset) -> int:
    """The number of worker processes: that which is asked for, else one that suits the data set.

    Workers start by themselves only where many encoded images are to be decoded (folders, columns of images) and the
    system starts processes by `fork`, which asks nothing of a user's script.

    Args:
        num_workers (`int`, *optional*):
            What is asked for.
        dataset (`torch.utils.data.Dataset`):
            What is read.

    Raises:
        ValueError: If it is no number of workers.
    """
    check_num_workers(num_workers)
    if num_workers is not None:
        return num_workers
    has_many = isinstance(dataset, PixelDataset) and dataset.has_images and len(dataset) >= _LEAST_IMAGES
    if not has_many or multiprocessing.get_context().get_start_method() != "fork":
        return 0
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", process_state().num_processes))
    return min(here // processes, _MOST_WORKERS)

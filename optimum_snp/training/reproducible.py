"""Random transforms that draw the same for an image whenever and wherever it is read.

A Trainer restores the random state of a checkpoint, but only after it has read some images ahead, and not that of
workers. Here what is drawn for an image depends on seed, epoch and place of the image alone, so that a training which
was resumed sees the images that it would have seen, whatever the number of workers or processes.
"""

import contextlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils import data as torch_data
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


@contextlib.contextmanager
def drawing(*numbers: int) -> Iterator[None]:
    """While open, Python, NumPy and PyTorch (on the CPU) draw what these numbers say; then they go on as before."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPUs' generators, too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


class ReproducibleDataset(torch_data.Dataset):
    """A dataset whose items draw by seed, epoch and index."""

    def __init__(self, dataset: torch_data.Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers may live longer than an epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with drawing(self.seed, int(self.epoch), index):
            return self.dataset[index]

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)


class ReproducibleStream(torch_data.IterableDataset):
    """A stream whose items draw by seed, epoch and how many came before."""

    def __init__(self, dataset: torch_data.IterableDataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Any]:
        items = iter(self.dataset)
        for index in itertools.count():
            with drawing(self.seed, int(self.epoch), index):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def reproducible(dataset: torch_data.Dataset, seed: int) -> ReproducibleDataset | ReproducibleStream:
    """The same dataset, or the same stream, with draws that do not depend on when and where an item is read."""
    is_stream = isinstance(dataset, torch_data.IterableDataset)
    return ReproducibleStream(dataset, seed) if is_stream else ReproducibleDataset(dataset, seed)


class CountEpochs(TrainerCallback):
    """Tells the dataset which epoch it is; the data loaders of Accelerate tell only samplers."""

    def __init__(self, dataset: ReproducibleDataset | ReproducibleStream):
        self.dataset = dataset
        self.epoch = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Counts on from the epoch that a checkpoint was saved in."""
        self.epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Counts."""
        self.dataset.set_epoch(self.epoch)
        self.epoch += 1

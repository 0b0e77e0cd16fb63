"""Random transforms that draw the same for an image whenever and wherever it is read.

A Trainer restores the random state of a checkpoint, but only after it has read some images ahead, and not that of
workers. Here what is drawn for an image depends on seed, epoch and place of the image alone, so that a training which
was resumed sees the images that it would have seen, whatever the number of workers or processes. The place in a stream
is that among the items which its workers take in turn; of a stream that is dealt out to them by files, as those of
`datasets` are, it depends on their number.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import data as torch_data
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.draws import drawing


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
    """A stream whose items draw by seed, epoch and how many came before.

    Several workers read several parts of a stream; their counts do not meet, as if they took its items in turn.
    """

    def __init__(self, dataset: torch_data.IterableDataset, seed: int):
        self.dataset = dataset
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Any]:
        worker = torch_data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        items = iter(self.dataset)
        for index in itertools.count(first, step):
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

"""How the small models of the benchmarks are trained."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm


def training_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--output`, `--epochs` and `--seed`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and the figures")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def train(
    parameters: Iterable[nn.Parameter],
    data: Dataset,
    loss_of: Callable[[dict[str, Any]], torch.Tensor],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> None:
    """AdamW with weight decay on one cycle of the learning rate, up to 1e-3.

    Args:
        parameters (`Iterable[nn.Parameter]`):
            What is trained; the model is in training mode already.
        data (`Dataset`):
            Items, of which those that do not fill a batch are left out.
        loss_of (`Callable`):
            From a batch to its loss.
        epochs, batch_size, seed (`int`):
            As their names say; the seed is that of the order.
    """
    parameters = list(parameters)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=epochs * len(loader))
    for _ in tqdm(range(epochs), desc="Training", unit="epoch"):
        for batch in loader:
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

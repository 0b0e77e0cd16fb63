"""Random numbers that depend on nothing but what is named."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


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

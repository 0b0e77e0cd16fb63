"""What depends on how deep in the model a weight lies: stochastic depth and learning rates per layer."""

import contextlib
from collections.abc import Iterator

from ..models import SNPModel
from ..structure import describe


@contextlib.contextmanager
def stochastic_depth(model: SNPModel, rate: float) -> Iterator[None]:
    """Leaves out blocks at random for a while: none of the first, a share `rate` of the images in the last."""
    paths = [block.module.drop_path for block in describe(model).blocks]
    rates = [path.rate for path in paths]
    for index, path in enumerate(paths):
        path.rate = rate * index / max(len(paths) - 1, 1)
    try:
        yield
    finally:
        for path, before in zip(paths, rates, strict=True):
            path.rate = before


def layer_depths(model: SNPModel) -> dict[str, int]:
    """How deep every weight lies: 0 for the embeddings, 1 for the first block, and one more than blocks at the head.

    What takes one stage of a Swin to the next goes with the block before it.
    """
    blocks = [f"{block.name}." for block in describe(model).blocks]
    depths, depth = {}, 0
    for name, _ in model.named_parameters():  # in the order of their definition, which is that of execution
        inside = next((index for index, block in enumerate(blocks) if name.startswith(block)), None)
        if inside is not None:
            depth = inside + 1
        elif depth == len(blocks):
            depth += 1
        depths[name] = depth
    return depths

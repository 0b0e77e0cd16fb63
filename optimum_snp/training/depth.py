"""What depends on how deep in the model a weight lies: stochastic depth and learning rates per layer."""

import contextlib
from collections.abc import Iterator

from ..models import SNPModel
from ..structure import describe


@contextlib.contextmanager
def stochastic_depth(model: SNPModel, rate: float) -> Iterator[None]:
    """Leaves out blocks at random for a while: none of the first, a share `rate` of the images in the last."""
    blocks = describe(model).blocks
    paths = [[model.get_submodule(name) for name in block.drop_paths] for block in blocks]
    before = [[path.rate for path in paths_of_block] for paths_of_block in paths]
    for index, paths_of_block in enumerate(paths):
        for path in paths_of_block:
            path.rate = rate * index / max(len(blocks) - 1, 1)
    try:
        yield
    finally:
        for paths_of_block, rates in zip(paths, before, strict=True):
            for path, rate_before in zip(paths_of_block, rates, strict=True):
                path.rate = rate_before


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

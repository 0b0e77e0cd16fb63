"""A classifier for some of its classes."""

import copy
from collections.abc import Sequence

from torch import nn

from ..models import SNPModel, build_like


def keep_classes(model: SNPModel, numbers: Sequence[int]) -> SNPModel:
    """The same network with the logits of some classes alone, in the order given.

    Args:
        model:
            An image classifier of ours; it is not changed.
        numbers (`Sequence[int]`):
            The classes that stay, by their numbers, each once.
    """
    config = copy.deepcopy(model.config)
    names = [config.id2label[number] for number in numbers]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    weights = model.state_dict(keep_vars=True)
    for name, layer in model.named_children():
        # The classifier, and beside it that of a distillation token.
        if name.endswith("classifier") and isinstance(layer, nn.Linear):
            for part, rows in layer.named_parameters():
                weights[f"{name}.{part}"] = rows.detach()[list(numbers)].requires_grad_(rows.requires_grad)
    return build_like(model, type(model), config, weights)

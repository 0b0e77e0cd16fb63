"""The weights of a BEiT under our names."""

from collections.abc import Mapping

from ..family import Weights
from ..layer_scale import fold_layer_scale


TABLE = "relative_position_bias_table"

_SCALED = {"lambda_1": ("attention.o_proj",), "lambda_2": ("mlp.fc2",)}


def convert_weights(
    weights: Weights, *, prefix: str, source_prefix: str, renamed: Mapping[str, str], shared_table: str
) -> Weights:
    """Renames all weights, folds layer scale into the layers before it, and gives every block a table of its own.

    Args:
        weights (`dict[str, torch.Tensor]`):
            Of transformers.
        prefix (`str`), source_prefix (`str`):
            Of our base model, and of the one of transformers.
        renamed (`Mapping[str, str]`):
            Parts of names there, with what they are here, in the order in which they are replaced.
        shared_table (`str`):
            The name there of the table that all blocks share.
    """
    ours, shared = {}, None
    for name, weight in weights.items():
        name = name.removeprefix(source_prefix)
        if name == shared_table:
            shared = weight
        elif not name.endswith("mask_token"):  # only masked-image pretraining reads it
            ours[name if name.startswith("classifier.") else prefix + _our_name(name, renamed)] = weight
    if shared is not None:
        for name in [name for name in ours if name.endswith("attention.q_proj.weight")]:
            table = name.replace("q_proj.weight", "relative_position_bias.table")
            ours[table] = ours[table] + shared if table in ours else shared.clone()
    fold_layer_scale(ours, _SCALED)
    return ours


def _our_name(name: str, renamed: Mapping[str, str]) -> str:
    for theirs, ours in renamed.items():
        name = name.replace(theirs, ours)
    return name

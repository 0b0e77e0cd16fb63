"""The weights of a BEiT under our names."""

from collections.abc import Mapping

from ..family import Weights, rename_parts
from ..layer_scale import fold_layer_scale


TABLE = "relative_position_bias_table"

_SCALED = {"lambda_1": ("attention.o_proj",), "lambda_2": ("mlp.fc2",)}


def convert_weights(
    weights: Weights, *, prefix: str, source_prefix: str, parts: Mapping[str, str], shared_table: str
) -> Weights:
    """Renames all weights, folds layer scale into the layers before it, and gives every block a table of its own.

    Args:
        weights (`dict[str, torch.Tensor]`):
            Of transformers.
        prefix (`str`), source_prefix (`str`):
            Of our base model, and of the one of transformers.
        parts (`Mapping[str, str]`):
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
            ours[name if name.startswith("classifier.") else prefix + rename_parts(name, parts)] = weight
    if shared is not None:
        for name in [name for name in ours if name.endswith("attention.q_proj.weight")]:
            table = name.replace("q_proj.weight", "relative_position_bias.table")
            ours[table] = ours[table] + shared if table in ours else shared.clone()
    fold_layer_scale(ours, _SCALED)
    return ours


def native_weights(weights: Weights, *, prefix: str, source_prefix: str, pools_mean: bool) -> Weights:
    """The reverse for a BEiT without layer scale and with tables of its own in every block.

    Biases of keys are left out. They add the same to all scores of one query, which the softmax does not see.

    Args:
        weights (`dict[str, torch.Tensor]`):
            Of ours.
        prefix (`str`), source_prefix (`str`):
            Of our base model, and of the one of transformers.
        pools_mean (`bool`):
            Whether the final norm is that of the pooler.
    """
    theirs = {}
    for name, weight in weights.items():
        if name.endswith("attention.k_proj.bias"):
            continue
        if not name.startswith("classifier."):
            name = name.removeprefix(prefix)
            name = name.replace("attention.relative_position_bias.table", f"relative_position_bias.{TABLE}")
            is_norm = pools_mean and name.startswith("layernorm.")
            name = f"{source_prefix}{'pooler.' * is_norm}{name}"
        theirs[name] = weight
    return theirs

"""The weights of a Swin V2 under our names, and the tables that its biases of relative positions are."""

import torch
import torch.nn.functional as F

from ..family import Weights, rename_parts


# Parts of the names of weights that are other in ours.
_RENAMED = {
    "encoder.layers.": "stages.",
    "attention.self.query.": "attention.q_proj.",
    "attention.self.key.": "attention.k_proj.",
    "attention.self.value.": "attention.v_proj.",
    "attention.self.logit_scale": "attention.query_norm.logit_scale",
    "attention.output.dense.": "attention.o_proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}
# Of an attention layer: where the two layers are that make biases of distances, and the distances.
_BIAS_NETWORK = "attention.self.continuous_position_bias_mlp."
DISTANCES = "attention.self.relative_coords_table"


def convert_weights(weights: Weights, prefix: str) -> Weights:
    """Renames all weights, and makes tables of the networks for biases of relative positions.

    Args:
        weights (`dict[str, torch.Tensor]`):
            Of transformers, and the distances within the windows of every attention layer,
            `[1, 2 * window - 1, 2 * window - 1, 2]`.
        prefix (`str`):
            Of our base model.
    """
    ours = {}
    for name, weight in weights.items():
        if name.endswith(DISTANCES):
            network = name.replace(DISTANCES, _BIAS_NETWORK)
            layers = [weights[f"{network}{layer}"] for layer in ("0.weight", "0.bias", "2.weight")]
            name = name.replace(DISTANCES, "attention.relative_position_bias_table")
            weight = _bias_table(weight, *layers)
        elif name.endswith("logit_scale"):
            weight = weight.flatten(1)  # from [heads, 1, 1]
        # Only masked-image pretraining reads the mask token.
        if _BIAS_NETWORK not in name and not name.endswith("mask_token"):
            our_name = prefix + rename_parts(name.removeprefix("swinv2."), _RENAMED)
            ours[name if name.startswith("classifier.") else our_name] = weight
    return ours


def _bias_table(
    distances: torch.Tensor, first: torch.Tensor, first_bias: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """The biases of all distances, `[distances, heads]`, from 0 to 16."""
    # Copied, since products round in another way for weights that lie otherwise in memory, as those of a file do.
    inputs, *layers = (tensor.clone() for tensor in (distances.flatten(0, 2), first, first_bias, second))
    hidden_states = F.linear(inputs, *layers[:2]).relu()
    return 16 * F.linear(hidden_states, layers[2]).sigmoid()

"""The weights of a DINOv3 under our names."""

import torch

from ..family import Weights, rename_parts
from ..layer_scale import fold_layer_scale


_RENAMED = {
    "layer.": "layers.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "patch_embeddings.": "patch_embeddings.projection.",
}
_RENAMED_IN_PLAIN_MLP = {"mlp.up_proj.": "mlp.fc1.", "mlp.down_proj.": "mlp.fc2."}
_SCALED = {"layer_scale1.lambda1": ("attention.o_proj",), "layer_scale2.lambda1": ("mlp.fc2", "mlp.down_proj")}
# Only masked-image pretraining reads the mask token; the frequencies follow from the config.
_UNREAD = ("mask_token", "inv_freq")
# Of our layers those that have a bias in any case, and those of which both or none have.
_WITH_BIAS = ("attention.o_proj", "mlp.fc1", "mlp.fc2", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_ALIKE = ("attention.q_proj", "attention.v_proj")


def convert_weights(
    weights: Weights, *, prefix: str, num_attention_heads: int, head_dim: int, is_gated: bool, qkv_bias: bool
) -> Weights:
    """Renames all weights, folds layer scale into the layers before it, and adds what is left out there.

    Those are biases, as zeros, and the rotary pairs of every head, which are all pairs.

    Args:
        weights (`dict[str, torch.Tensor]`):
            Of transformers.
        prefix (`str`):
            Of our base model.
        num_attention_heads, head_dim (`int`):
            Of every block.
        is_gated (`bool`):
            Whether the MLP has a gate.
        qkv_bias (`bool`):
            Whether our queries and values have biases.
    """
    ours = {}
    for name, weight in weights.items():
        if not name.endswith(_UNREAD) and weight.numel():  # no registers are an empty weight
            ours[prefix + _our_name(name, is_gated)] = weight
    with_bias = _WITH_BIAS + (_ALIKE if qkv_bias else ())
    for name in [name for name in ours if name.endswith(tuple(f"{layer}.weight" for layer in with_bias))]:
        weight, bias = ours[name], name.replace(".weight", ".bias")
        if bias not in ours:
            ours[bias] = weight.new_zeros(len(weight)).requires_grad_(weight.requires_grad)
    fold_layer_scale(ours, _SCALED)
    pairs = torch.arange(head_dim // 2).repeat(num_attention_heads, 1)
    for name in [name for name in ours if name.endswith("attention.q_proj.weight")]:
        ours[name.replace("q_proj.weight", "rotary_pairs")] = pairs
    return ours


def _our_name(name: str, is_gated: bool) -> str:
    name = name.removeprefix("model.")
    if name.startswith("norm."):
        return f"layer{name}"
    return rename_parts(name, _RENAMED if is_gated else _RENAMED | _RENAMED_IN_PLAIN_MLP)

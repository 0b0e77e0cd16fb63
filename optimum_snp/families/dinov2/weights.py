"""The weights of a DINOv2 under our names."""

import torch
from transformers import PreTrainedModel

from ..family import Weights, rename_parts
from ..layer_scale import fold_layer_scale


_PREFIXES = ("dinov2.", "dinov2_with_registers.")
_RENAMED = {
    "encoder.layer.": "layers.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
}
# What every layer scale scales: the output layers of both halves of a block.
_SCALED = {"layer_scale1.lambda1": ("attention.o_proj",), "layer_scale2.lambda1": ("mlp.fc2", "mlp.down_proj")}


def convert_weights(weights: Weights, *, is_bare: bool) -> Weights:
    """Renames all weights, and folds layer scale into the layers before it."""
    ours = {}
    for name, weight in weights.items():
        # Only masked-image pretraining reads the mask token.
        if name.endswith("mask_token"):
            continue
        ours[_our_name(name, is_bare=is_bare)] = weight
    fold_layer_scale(ours, _SCALED)
    return ours


def _our_name(name: str, *, is_bare: bool) -> str:
    name = rename_parts(name, _RENAMED)
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    # A backbone of transformers has no prefix, ours has one.
    return name if is_bare or name.startswith("classifier.") else f"snp_vit.{name}"


def native_weights(weights: Weights, native_class: type[PreTrainedModel]) -> Weights:
    """Gives all weights back their names, and adds what was folded or left out: layer scale and mask token."""
    prefix = native_class.base_model_prefix
    has_prefix = native_class.__name__.endswith("ForImageClassification")
    theirs = {}
    for name, weight in weights.items():
        if not name.startswith("classifier."):
            name = name.removeprefix("snp_vit.")
            for native, ours in _RENAMED.items():
                name = name.replace(ours, native)
            name = f"{prefix}.{name}" if has_prefix else name
        theirs[name] = weight
        for scale, layers in _SCALED.items():
            for layer in layers:
                if name.endswith(f".{layer}.bias"):
                    theirs[f"{name.removesuffix(f'{layer}.bias')}{scale}"] = torch.ones_like(weight)
        if name.endswith("embeddings.cls_token") and native_class.config_class.model_type == "dinov2_with_registers":
            # Only masked-image pretraining reads it.
            theirs[f"{name.removesuffix('cls_token')}mask_token"] = torch.zeros_like(weight[0])
    return theirs

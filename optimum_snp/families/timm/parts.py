"""What blocks of timm are made of, and which of it can be expressed."""

from typing import Any

import torch
from torch import nn

from ..family import Weights


def check_type(where: str, module: nn.Module, *allowed: type[nn.Module]) -> None:
    """Raises a `ValueError` unless a part of a timm model is of one of these classes, and of no subclass."""
    if type(module) not in allowed:
        names = " or ".join(dict.fromkeys(kind.__name__ for kind in allowed))
        raise ValueError(f"{where} of the timm model is a {type(module).__name__}; only {names} can be pruned.")


def check_absent(where: str, module: nn.Module | None, reason: str) -> None:
    """Raises a `ValueError` if a timm model has a part that nothing here can express."""
    if module is not None and not isinstance(module, nn.Identity):
        raise ValueError(f"{where} of the timm model cannot be pruned: {reason}")


def norm_epsilon(norms: dict[str, nn.Module]) -> float:
    """The epsilon of all norms.

    Raises:
        ValueError: If one is no layer norm with weights, or has another epsilon.
    """
    from timm.layers import LayerNorm

    for name, norm in norms.items():
        check_type(name, norm, nn.LayerNorm, LayerNorm)
        if norm.weight is None or norm.bias is None:
            raise ValueError(f"{name} of the timm model has no weight or bias, which only norms with both can do.")
    epsilons = {name: norm.eps for name, norm in norms.items()}
    if len(set(epsilons.values())) > 1:
        raise ValueError(f"The norms of the timm model have different epsilons: {epsilons}.")
    return next(iter(epsilons.values()))


def activation_name(module: nn.Module) -> str:
    """The name of an activation in transformers.

    Raises:
        ValueError: If it has none.
    """
    from timm.layers import activations

    names = {
        activations.GELU: "gelu",
        activations.GELUTanh: "gelu_pytorch_tanh",
        activations.QuickGELU: "quick_gelu",
        nn.ReLU: "relu",
        nn.SiLU: "silu",
        activations.Swish: "silu",
    }
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    if type(module) not in names:
        raise ValueError(f"The activation {type(module).__name__} of the timm model has no name in transformers.")
    return names[type(module)]


def split_attention(name: str, weight: torch.Tensor) -> Weights:
    """The fused weights `attn.qkv.weight` or `.bias` of a block apart, under our names."""
    kind = name.removeprefix("attn.qkv.")
    return {f"attention.{letter}_proj.{kind}": part for letter, part in zip("qkv", weight.chunk(3), strict=True)}


def rename(name: str, renamed: dict[str, str]) -> str:
    """A name of timm by a table of whole names, and of beginnings that end with a dot.

    Raises:
        ValueError: If the table does not know it.
    """
    for theirs, ours in renamed.items():
        if name == theirs or (theirs.endswith(".") and name.startswith(theirs)):
            return ours + name.removeprefix(theirs)
    raise ValueError(f"The timm model has the weight {name}, which no plain ViT or Swin has.")


def common(name: str, values: set[Any]) -> Any:
    """The one value that all blocks of a timm model have.

    Raises:
        ValueError: If they have several.
    """
    if len(values) > 1:
        raise ValueError(f"The blocks of the timm model differ in {name}: {', '.join(sorted(map(str, values)))}.")
    return next(iter(values))

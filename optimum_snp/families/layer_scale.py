"""Layer scale, folded into the layers before it."""

from collections.abc import Mapping, Sequence

from .family import Weights


def fold_layer_scale(weights: Weights, scaled: Mapping[str, Sequence[str]]) -> None:
    """Multiplies layers by the scale of their outputs, and drops the scale.

    Args:
        weights (`dict[str, torch.Tensor]`):
            All weights, layers under our names. Changed in place; the tensors are not.
        scaled (`Mapping[str, Sequence[str]]`):
            For the name of every scale in a block those of the layers that it may scale, of which a block has one.
    """
    for end, layers in scaled.items():
        for name in [name for name in weights if name.endswith(f".{end}")]:
            scale, block = weights.pop(name), name.removesuffix(end)
            for layer in layers:
                if f"{block}{layer}.weight" in weights:
                    weights[f"{block}{layer}.weight"] = scale.unsqueeze(1) * weights[f"{block}{layer}.weight"]
                    weights[f"{block}{layer}.bias"] = scale * weights[f"{block}{layer}.bias"]

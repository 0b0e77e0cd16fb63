"""From a model of transformers to the same function in our own architecture, one file per source family.

Every later stage sees our architecture only.
"""

import torch
from transformers import PreTrainedModel

from ..models import SNPModel, build_like
from . import swin, vit


SUPPORTED_ARCHITECTURES = (*vit.ARCHITECTURES, *swin.ARCHITECTURES)
# Our own classes by name: a model may come from the code that its checkpoint carries, in classes of the same names.
SNP_ARCHITECTURES = {
    model_class.__name__: model_class for model_class in (*vit.ARCHITECTURES.values(), *swin.ARCHITECTURES.values())
}


def check_supported(architecture: str | None) -> None:
    """Raises unless models of the class `architecture` can be converted.

    Raises:
        ValueError: If not; the message lists the classes that can.
    """
    if (architecture or "").startswith("Swinv2"):
        raise ValueError(
            f"{architecture} cannot be pruned: its attention divides every query and key by its length over all "
            "neurons of the head, and its norms come behind the branches, so that what a single neuron adds to the "
            "attention scores cannot be told apart. Swin models of the first version can be pruned."
        )
    if architecture not in (*SUPPORTED_ARCHITECTURES, *SNP_ARCHITECTURES):
        raise ValueError(
            f"{architecture or 'A model without `architectures` in its config'} cannot be pruned. Supported are "
            f"{', '.join(SUPPORTED_ARCHITECTURES)}, and models that this package pruned before."
        )


def convert(source: PreTrainedModel) -> SNPModel:
    """Converts a model of transformers to our architecture: the same function, every block stating its sizes.

    A model that is in our architecture already is copied. The source is never changed.

    Args:
        source (`PreTrainedModel`):
            A model of one of `SUPPORTED_ARCHITECTURES`, or one that was pruned before.

    Returns:
        A model of a class in `SNP_ARCHITECTURES`, in eval mode, on the device and in the dtype of
        `source`.

    Raises:
        TypeError: If `source` is no `PreTrainedModel`.
        ValueError: If its class is not supported, or a weight is NaN or infinite.
    """
    if not isinstance(source, PreTrainedModel):
        raise TypeError(f"Expected a PreTrainedModel of transformers, got {type(source).__name__}.")
    check_supported(type(source).__name__)
    for name, parameter in source.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"The weight {name} has values that are NaN or infinite; such a model cannot be pruned.")
    if type(source).__name__ in SNP_ARCHITECTURES:
        return _copy(source)
    if type(source).__name__ in swin.ARCHITECTURES:
        return swin.convert_swin(source)
    return vit.convert_vit(source)


def our_weights(source: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a model of transformers under the names of our architecture; they are shared, not copied."""
    return (swin if type(source).__name__ in swin.ARCHITECTURES else vit).our_weights(source)


def _copy(source: PreTrainedModel) -> SNPModel:
    model_class = SNP_ARCHITECTURES[type(source).__name__]
    config = model_class.config_class.from_dict(source.config.to_dict())
    return build_like(source, model_class, config, source.state_dict())


__all__ = ["SNP_ARCHITECTURES", "SUPPORTED_ARCHITECTURES", "check_supported", "convert", "our_weights"]

"""From a model of transformers to the same function in our own architecture.

Every later stage sees our architecture only.
"""

import difflib

import torch
from transformers import PreTrainedModel

from ..models import SNPModel, build_like
from .checks import check_source
from .family import Weights
from .registry import families, family_of_source, our_classes, source_classes


def check_supported(architecture: str | None) -> None:
    """Raises unless models of the class `architecture` can be converted.

    Raises:
        ValueError: If not; the message lists the classes that can, and names the nearest.
        ImportError: If a package is missing that its models need.
    """
    family = family_of_source(architecture)
    if family is not None:
        family.check_installed()
    if family is not None or architecture in our_classes():
        return
    for family in families():
        for beginning, reason in family.refused.items():
            if (architecture or "").startswith(beginning):
                raise ValueError(f"{architecture} cannot be pruned: {reason}")
    nearest = difflib.get_close_matches(architecture or "", source_classes(), n=1, cutoff=0.0)
    raise ValueError(
        f"{architecture or 'A model without `architectures` in its config'} cannot be pruned. Supported are "
        f"{', '.join(source_classes())}, and models that this package pruned before."
        + (f" The nearest of these by its name is {nearest[0]}." if architecture else "")
    )


def convert(source: PreTrainedModel) -> SNPModel:
    """Converts a model of transformers to our architecture: the same function, every block stating its sizes.

    A model that is in our architecture already is copied. The source is never changed, and what is frozen in it is
    frozen in the result.

    Args:
        source (`PreTrainedModel`):
            A model of a class of a registered family, or one that was pruned before.

    Returns:
        A model of one of our classes, in eval mode, on the device and in the dtype of `source`.

    Raises:
        TypeError: If `source` is no `PreTrainedModel`.
        ValueError: If its class is not supported, its weights cannot be read (on the meta device, quantised, with
            adapters, NaN or infinite) or do not fit its config.
    """
    if not isinstance(source, PreTrainedModel):
        raise TypeError(f"Expected a PreTrainedModel of transformers, got {type(source).__name__}.")
    name = type(source).__name__
    check_supported(name)
    check_source(source)
    if name in our_classes():
        model_class = our_classes()[name]
        config = model_class.config_class.from_dict(source.config.to_dict())
        return build_like(source, model_class, config, source.state_dict(keep_vars=True))
    family = family_of_source(name)
    config = family.convert_config(source)
    model = build_like(source, family.target_class(source), config, our_weights(source))
    if not source._supports_sdpa and config._attn_implementation == "eager":
        model.set_attn_implementation("sdpa")  # which was no choice there, and is the default of our models
    return model


def our_weights(source: PreTrainedModel) -> Weights:
    """The weights of a model of transformers under the names of our architecture; they may share memory."""
    family = family_of_source(type(source).__name__)
    # With gradients, so that what is computed from weights is frozen where all of them are.
    with torch.inference_mode(False), torch.enable_grad():
        weights = family.source_weights(source)
        return family.convert_weights(weights, family.target_class(source), source.config)

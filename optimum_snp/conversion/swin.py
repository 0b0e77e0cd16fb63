"""Swin of transformers, rewritten in our architecture.

Only this file knows the names of its modules (transformers >= 5.9).
"""

import torch
from transformers import PreTrainedModel

from ..models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel, build_like
from .source import config_fields, network_weights


# Source class -> ours. Transformers writes these names into `architectures` of config.json.
ARCHITECTURES = {
    "SwinModel": SNPSwinModel,
    "SwinForImageClassification": SNPSwinForImageClassification,
    "SwinBackbone": SNPSwinBackbone,
}

# Parts of their names that are other in ours.
_RENAMED = {"encoder.layers.": "stages.", "relative_position_bias.relative_": "relative_"}


def convert_swin(source: PreTrainedModel) -> SNPSwinModel | SNPSwinForImageClassification | SNPSwinBackbone:
    """Builds our dense model with the weights of a Swin.

    Args:
        source (`PreTrainedModel`):
            A model of one of the classes in `ARCHITECTURES`. It is not changed and shares no weights with the result.

    Returns:
        [`SNPSwinModel`], [`SNPSwinForImageClassification`] or [`SNPSwinBackbone`]: The same function, in eval mode, on
        the same device and in the same dtype.
    """
    model_class = ARCHITECTURES[type(source).__name__]
    # Only a bare model may lack the pooler; it has no weights, so a backbone's base model may have it as well.
    use_pooler = model_class is not SNPSwinModel or source.pooler is not None
    config = SNPSwinConfig(**config_fields(source), use_pooler=use_pooler)
    return build_like(source, model_class, config, our_weights(source))


def our_weights(source: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of `source` under the names of our architecture."""
    return {_our_name(name): weight for name, weight in network_weights(source).items()}


def _our_name(name: str) -> str:
    for theirs, ours in _RENAMED.items():
        name = name.replace(theirs, ours)
    return "snp_swin." + name.removeprefix("swin.") if name.startswith("swin.") else name

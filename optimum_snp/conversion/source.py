"""What is read from a model of transformers, whatever its family."""

from typing import Any

import torch
from transformers import PreTrainedModel


# What a source config says of itself rather than of the network.
_IDENTITY_FIELDS = ("model_type", "architectures", "transformers_version", "auto_map", "encoder_stride")


def config_fields(source: PreTrainedModel) -> dict[str, Any]:
    """Everything that the config of `source` says of the network and its labels."""
    return {name: value for name, value in source.config.to_dict().items() if name not in _IDENTITY_FIELDS}


def network_weights(source: PreTrainedModel) -> dict[str, torch.Tensor]:
    """All weights but the mask token, which only masked-image pretraining reads."""
    return {name: weight for name, weight in source.state_dict().items() if not name.endswith("mask_token")}

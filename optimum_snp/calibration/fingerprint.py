"""What tells one model from another: a digest of its weights and of all that decides what it computes from them."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig


# What a config says of the function beside the sizes of the weights; each where an architecture has it.
_FUNCTION_FIELDS = (
    "model_type",
    "image_size",
    "patch_size",
    "window_size",
    "hidden_act",
    "layer_norm_eps",
    "pooler_act",
    "pooler_type",
    "use_pooler",
    "classifier_pooling",
    "norm_after_pooling",
    "interpolate_pos_encoding",
    "interpolation_antialias",
)
# Fields that came later count only where they are set, so that models from before keep their digests.
_LATER_FIELDS = ("patch_stride", "rope_theta", "rope_head_dim", "pooler_num_attention_heads", "window_sizes")


def model_fingerprint(model: nn.Module) -> str:
    """Digest of a model of ours: its weights, the sizes of its blocks, and what else decides its function.

    Two models with the same fingerprint put out the same for the same images.
    """
    return _digest(model, [model.config.block_configs, _function_of(model.config)])


def fingerprint_of_version_0_1(model: nn.Module) -> str:
    """The digest that version 0.1 gave, which does not see epsilon, activation and image size."""
    return _digest(model, model.config.block_configs)


def _function_of(config: PretrainedConfig) -> dict[str, Any]:
    config = getattr(config, "vision_config", config)  # of a model of images and texts, what its images go through
    fields = {name: getattr(config, name) for name in _FUNCTION_FIELDS if hasattr(config, name)}
    later = {name: getattr(config, name, None) for name in _LATER_FIELDS}
    return fields | {name: value for name, value in later.items() if value is not None}


def _digest(model: nn.Module, description: Any) -> str:
    digest = hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=16)
    for tensor in _in_order(model):
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _in_order(model: nn.Module) -> Iterable[torch.Tensor]:
    return (tensor.reshape(-1) for _, tensor in sorted(model.state_dict().items()))

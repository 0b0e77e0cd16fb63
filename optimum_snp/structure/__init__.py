"""What pruning needs to know of an architecture of ours: its blocks, its residual streams and all that touches them.

Every stage from calibration to reshaping works on this description alone. One file per architecture says where the
things are; a ViT has one residual stream, Swin has one per stage.
"""

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from .architecture import Architecture, AttentionMaps
from .description import Block, Norm, Stream, Structure, Tokens, as_pair
from .inputs import IMAGES, SPECTROGRAMS, input_name, input_shape, model_inputs, reads_sounds
from .swin import SwinArchitecture
from .two_towers import TwoTowersArchitecture
from .vit import ViTArchitecture


_ARCHITECTURES: dict[str, Architecture] = {}


def register_architecture(model_type: str, architecture: Architecture) -> None:
    """Makes models whose config has this `model_type` known to every stage.

    Raises:
        ValueError: If the type is taken.
    """
    if model_type in _ARCHITECTURES:
        raise ValueError(f"There is an architecture {model_type!r} already. Choose another model_type.")
    _ARCHITECTURES[model_type] = architecture


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The architecture of a config of ours."""
    return _ARCHITECTURES[config.model_type]


def describe(model: PreTrainedModel) -> Structure:
    """The structure of a model of ours; it may live on the meta device."""
    return architecture_of(model.config).describe(model)


def block_sizes(config: PretrainedConfig) -> list[dict[str, Any]]:
    """The entries of `block_configs`, one per block in execution order."""
    return architecture_of(config).block_sizes(config)


def stream_widths(config: PretrainedConfig) -> list[int]:
    """The width of every residual stream."""
    return architecture_of(config).stream_widths(config)


def block_stages(config: PretrainedConfig) -> list[int]:
    """For every block the position of its residual stream."""
    return architecture_of(config).block_stages(config)


def query_key_step(config: PretrainedConfig) -> int:
    """What the sizes of queries and keys per head are multiples of."""
    return architecture_of(config).query_key_step(config)


def whole_parts(config: PretrainedConfig) -> dict[str, str]:
    """What can never get smaller, by the field of [`SNPConfig`] for it; see [`Architecture.whole_parts`]."""
    return architecture_of(config).whole_parts(config)


def num_mergeable_tokens(config: PretrainedConfig) -> int:
    """How many tokens reach the first block of those that may merge; see [`Architecture.num_mergeable_tokens`]."""
    return architecture_of(config).num_mergeable_tokens(config)


def resized_config(
    config: PretrainedConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, refits: bool
) -> PretrainedConfig:
    """The config of a model with other sizes.

    Args:
        config:
            Of the dense model.
        blocks (`list[dict | None]`):
            The new entries of `block_configs`, in execution order; `None` for a block that is dropped.
        widths (`list[int]`):
            The new width of every residual stream.
        refits (`bool`):
            Whether what reads a stream that gets narrower is refitted, and needs biases for that.
    """
    return architecture_of(config).resized_config(config, blocks, widths, refits=refits)


for model_type in ("snp_vit", "snp_ast"):
    register_architecture(model_type, ViTArchitecture())
register_architecture("snp_swin", SwinArchitecture())
for model_type in ("snp_clip", "snp_metaclip_2", "snp_siglip"):
    register_architecture(model_type, TwoTowersArchitecture())


__all__ = [
    "IMAGES",
    "SPECTROGRAMS",
    "Architecture",
    "AttentionMaps",
    "Block",
    "Norm",
    "Stream",
    "Structure",
    "Tokens",
    "architecture_of",
    "as_pair",
    "block_sizes",
    "block_stages",
    "describe",
    "input_name",
    "input_shape",
    "model_inputs",
    "num_mergeable_tokens",
    "query_key_step",
    "reads_sounds",
    "register_architecture",
    "resized_config",
    "stream_widths",
    "whole_parts",
]

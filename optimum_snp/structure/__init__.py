"""What pruning needs to know of an architecture of ours: its blocks, its residual streams and all that touches them.

Every stage from calibration to reshaping works on this description alone. One file per architecture says where the
things are; ViT and DeiT have one residual stream, Swin has one per stage.
"""

from types import ModuleType

from transformers import PretrainedConfig, PreTrainedModel

from . import swin, vit
from .description import Block, Norm, Stream, Structure, as_pair


_ARCHITECTURES: dict[str, ModuleType] = {"snp_vit": vit, "snp_swin": swin}


def describe(model: PreTrainedModel) -> Structure:
    """The structure of a model of ours; it may live on the meta device."""
    return _ARCHITECTURES[model.config.model_type].describe(model)


def block_sizes(config: PretrainedConfig) -> list[dict]:
    """The entries of `block_configs`, one per block in execution order."""
    return _ARCHITECTURES[config.model_type].block_sizes(config)


def stream_widths(config: PretrainedConfig) -> list[int]:
    """The width of every residual stream."""
    return _ARCHITECTURES[config.model_type].stream_widths(config)


def block_stages(config: PretrainedConfig) -> list[int]:
    """For every block the position of its residual stream."""
    return _ARCHITECTURES[config.model_type].block_stages(config)


def resized_config(
    config: PretrainedConfig, blocks: list[dict | None], widths: list[int], *, method: str
) -> PretrainedConfig:
    """The config of a model with other sizes.

    Args:
        config:
            Of the dense model.
        blocks (`list[dict | None]`):
            The new entries of `block_configs`, in execution order; `None` for a block that is dropped.
        widths (`list[int]`):
            The new width of every residual stream.
        method (`str`):
            Of [`SNPConfig`]: the closed-form ones refit what reads a stream that gets narrower, and need biases there.
    """
    return _ARCHITECTURES[config.model_type].resized_config(config, blocks, widths, method=method)


__all__ = [
    "Block",
    "Norm",
    "Stream",
    "Structure",
    "as_pair",
    "block_sizes",
    "block_stages",
    "describe",
    "resized_config",
    "stream_widths",
]

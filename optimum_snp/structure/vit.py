"""The structure of [`SNPViTModel`] and its classifier: one residual stream through all blocks."""

from typing import Any

from torch import nn

from ..models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from .description import Block, Norm, Stream, Structure


def describe(model: SNPViTModel | SNPViTForImageClassification) -> Structure:
    """See [`optimum_snp.structure.describe`]."""
    base_model = model.base_model
    embeddings = base_model.embeddings
    base = "" if model is base_model else f"{model.base_model_prefix}."
    num_patches = embeddings.grid[0] * embeddings.grid[1]
    num_tokens = num_patches + embeddings.num_extra_tokens

    patches = f"{base}embeddings.patch_embeddings.projection"
    writers, norms, blocks = [patches], [], []
    rows = {patches: num_patches}
    for index, layer in enumerate(base_model.layers):
        name = f"{base}layers.{index}"
        blocks.append(Block(name, layer, stream=0, num_maps=1, map_tokens=num_tokens))
        projections = [f"{name}.attention.{part}_proj" for part in "qkv"]
        writers += [f"{name}.attention.o_proj", f"{name}.mlp.fc2"]
        norms.append(Norm(f"{name}.layernorm_before", projections))
        norms.append(Norm(f"{name}.layernorm_after", [f"{name}.mlp.fc1"]))
        rows |= dict.fromkeys([*projections, *writers[-2:], f"{name}.mlp.fc1"], num_tokens)

    heads = _heads(model, base)
    # Only the class token, and the distillation token if there is one, reach a classifier or a pooler.
    norms.append(Norm(f"{base}layernorm", heads, num_tokens=embeddings.num_extra_tokens if heads else None))
    vectors = [f"{base}embeddings.{name}" for name in ("cls_token", "position_embeddings")]
    if embeddings.distillation_token is not None:
        vectors.append(f"{base}embeddings.distillation_token")
    stream = Stream(model.config.hidden_size, writers, vectors, norms)
    return Structure(blocks, [stream], rows | dict.fromkeys(heads, 1))


def _heads(model: SNPViTModel | SNPViTForImageClassification, base: str) -> list[str]:
    heads = [] if model.base_model.pooler is None else [f"{base}pooler.dense"]
    if model is not model.base_model:
        names = ("classifier", "distillation_classifier")
        heads += [name for name in names if isinstance(getattr(model, name), nn.Linear)]
    return heads


def block_sizes(config: SNPViTConfig) -> list[dict[str, Any]]:
    """See [`optimum_snp.structure.block_sizes`]."""
    return config.block_configs


def stream_widths(config: SNPViTConfig) -> list[int]:
    """See [`optimum_snp.structure.stream_widths`]."""
    return [config.hidden_size]


def block_stages(config: SNPViTConfig) -> list[int]:
    """See [`optimum_snp.structure.block_stages`]."""
    return [0] * len(config.block_configs)


def resized_config(
    config: SNPViTConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, method: str
) -> SNPViTConfig:
    """See [`optimum_snp.structure.resized_config`]."""
    blocks = [block for block in blocks if block is not None]
    fields = {**config.to_dict(), "hidden_size": widths[0], "block_configs": blocks, "num_hidden_layers": len(blocks)}
    if method != "snp" and widths[0] < config.hidden_size:
        fields["qkv_bias"] = True  # the norms' shift and the mean of what is dropped go there
    return SNPViTConfig.from_dict(fields)

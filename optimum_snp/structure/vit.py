"""The structure of [`SNPViTModel`] and its classifier: one residual stream through all blocks."""

from typing import Any

import torch
from torch import nn

from ..models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from .architecture import Architecture, AttentionMaps
from .description import Block, Norm, Stream, Structure, Tokens


class ViTArchitecture(Architecture):
    """One residual stream, one attention map per head and image."""

    def describe(self, model: SNPViTModel | SNPViTForImageClassification) -> Structure:
        """See [`optimum_snp.structure.describe`]."""
        base_model = model.base_model
        embeddings = base_model.embeddings
        base = "" if model is base_model else f"{model.base_model_prefix}."
        num_patches = embeddings.grid[0] * embeddings.grid[1]
        num_tokens = num_patches + embeddings.num_extra_tokens

        patches = f"{base}embeddings.patch_embeddings.projection"
        blocks = [
            _describe_block(f"{base}layers.{index}", layer, num_tokens) for index, layer in enumerate(base_model.layers)
        ]
        writers, norms, rows = [patches], [], {patches: num_patches}
        for block in blocks:
            writers += [block.output, block.down]
            norms.append(Norm(f"{block.name}.layernorm_before", block.attention_inputs))
            norms.append(Norm(f"{block.name}.layernorm_after", block.mlp_inputs))
            rows |= dict.fromkeys(block.layers, num_tokens)

        heads = _heads(model, base)
        # Only the class token, and the distillation token if there is one, reach a classifier or a pooler.
        read = (Tokens(stop=embeddings.num_extra_tokens),) if heads else (Tokens(),)
        norms.append(Norm(f"{base}layernorm", heads, reads=read, is_output=model is base_model))
        vectors = [f"{base}embeddings.{name}" for name in ("cls_token", "position_embeddings")]
        if embeddings.distillation_token is not None:
            vectors.append(f"{base}embeddings.distillation_token")
        stream = Stream(model.config.hidden_size, writers, vectors, norms)
        return Structure(blocks, [stream], rows | dict.fromkeys(heads, 1))

    def block_sizes(self, config: SNPViTConfig) -> list[dict[str, Any]]:
        """See [`optimum_snp.structure.block_sizes`]."""
        return config.block_configs

    def stream_widths(self, config: SNPViTConfig) -> list[int]:
        """See [`optimum_snp.structure.stream_widths`]."""
        return [config.hidden_size]

    def block_stages(self, config: SNPViTConfig) -> list[int]:
        """See [`optimum_snp.structure.block_stages`]."""
        return [0] * len(config.block_configs)

    def resized_config(
        self, config: SNPViTConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, refits: bool
    ) -> SNPViTConfig:
        """See [`optimum_snp.structure.resized_config`]."""
        blocks = [block for block in blocks if block is not None]
        fields = {
            **config.to_dict(),
            "hidden_size": widths[0],
            "block_configs": blocks,
            "num_hidden_layers": len(blocks),
        }
        if refits and widths[0] < config.hidden_size:
            fields["qkv_bias"] = True  # the norms' shift and the mean of what is dropped go there
        return SNPViTConfig.from_dict(fields)

    def blocks_with_maps(self, config: SNPViTConfig) -> list[int]:
        """See [`Architecture.blocks_with_maps`]; of a ViT all."""
        return list(range(len(config.block_configs)))

    def attention_maps(self, model: SNPViTModel, position: int, probabilities: torch.Tensor) -> AttentionMaps:
        """See [`Architecture.attention_maps`]; of a ViT it is what the class token attends to."""
        embeddings = model.embeddings
        maps = probabilities[:, :, 0, embeddings.num_extra_tokens :].unflatten(-1, embeddings.grid)
        return AttentionMaps(f"attention of the class token in block {position}", maps)


def _describe_block(name: str, layer: nn.Module, num_tokens: int) -> Block:
    attention = layer.attention
    return Block(
        name=name,
        module=layer,
        stream=0,
        num_maps=1,
        map_tokens=num_tokens,
        num_attention_heads=attention.num_attention_heads,
        qk_head_dim=attention.qk_head_dim,
        v_head_dim=attention.v_head_dim,
        intermediate_size=layer.mlp.fc2.in_features,
        query=f"{name}.attention.q_proj",
        key=f"{name}.attention.k_proj",
        value=f"{name}.attention.v_proj",
        output=f"{name}.attention.o_proj",
        up=f"{name}.mlp.fc1",
        down=f"{name}.mlp.fc2",
        drop_paths=[f"{name}.drop_path"],
    )


def _heads(model: SNPViTModel | SNPViTForImageClassification, base: str) -> list[str]:
    heads = [] if model.base_model.pooler is None else [f"{base}pooler.dense"]
    if model is not model.base_model:
        names = ("classifier", "distillation_classifier")
        heads += [name for name in names if isinstance(getattr(model, name), nn.Linear)]
    return heads

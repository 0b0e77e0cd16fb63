"""The structure of [`SNPViTModel`] and its classifier: one residual stream through all blocks."""

from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..models import SNPViTBackbone, SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from .architecture import Architecture, AttentionMaps
from .description import Block, Norm, Stream, Structure, Tokens


class ViTArchitecture(Architecture):
    """One residual stream, one attention map per head and image."""

    def describe(self, model: SNPViTModel | SNPViTForImageClassification | SNPViTBackbone) -> Structure:
        """See [`optimum_snp.structure.describe`].

        Raises:
            ValueError: If a norm stands between embeddings and blocks: no stage knows how the width passes it; or if
                a model without a classifier has its norm behind the pooling.
        """
        base_model = model.base_model
        embeddings = base_model.embeddings
        if base_model.pre_layernorm is not None:
            raise ValueError("Models with a norm before the blocks (use_pre_layernorm) cannot be pruned yet.")
        if model.config.norm_after_pooling and not isinstance(model, SNPViTForImageClassification):
            raise ValueError("A model with norm_after_pooling can only be pruned as an image classifier.")
        base = "" if model is base_model else f"{model.base_model_prefix}."
        num_patches = model.config.num_patches
        num_tokens = num_patches + embeddings.num_extra_tokens

        patches = f"{base}embeddings.patch_embeddings.projection"
        blocks, writers, norms, rows = [], [patches], [], {patches: num_patches}
        for index, layer in enumerate(base_model.layers):
            block = _describe_block(f"{base}layers.{index}", layer, num_tokens, embeddings.num_extra_tokens)
            blocks.append(block)
            writers += [block.output, block.down]
            norms.append(Norm(f"{block.name}.layernorm_before", block.attention_inputs))
            norms.append(Norm(f"{block.name}.layernorm_after", block.mlp_inputs))
            rows |= dict.fromkeys([*block.attention_inputs, block.output], num_tokens)
            num_tokens -= block.merged_tokens
            rows |= dict.fromkeys([*block.mlp_inputs, block.down], num_tokens)

        heads = _heads(model, base)
        is_classifier = isinstance(model, SNPViTForImageClassification)
        if base_model.layernorm is not None:
            reads = _tokens_of_heads(model) if heads else (Tokens(),)
            norms.append(Norm(f"{base}layernorm", heads, reads=reads, is_output=not is_classifier))
        vectors = [
            f"{base}embeddings.{name}"
            for name in ("cls_token", "position_embeddings", "distillation_token", "register_tokens")
            if getattr(embeddings, name) is not None
        ]
        stream = Stream(model.config.hidden_size, writers, vectors, norms, is_output=base_model.layernorm is None)
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
        fields = config.to_dict()
        if None in blocks:  # the stages of a backbone keep their names
            kept = iter([int(block is not None) for block in blocks])
            fields["stage_depths"] = [depth and next(kept) for depth in config.stage_depths or [1] * len(blocks)]
        fields["block_configs"] = [block for block in blocks if block is not None]
        fields["num_hidden_layers"] = len(fields["block_configs"])
        fields["hidden_size"] = widths[0]
        if config.pooler_type == "cls":
            fields["pooler_output_size"] = widths[0]
        if refits and widths[0] < config.hidden_size:
            fields["qkv_bias"] = True  # the norms' shift and the mean of what is dropped go there
            fields["key_bias"] = None  # as the others
        return SNPViTConfig.from_dict(fields)

    def blocks_with_maps(self, config: SNPViTConfig) -> list[int]:
        """See [`Architecture.blocks_with_maps`]; of a ViT all."""
        return list(range(len(config.block_configs)))

    def attention_maps(self, model: SNPViTModel, position: int, probabilities: torch.Tensor) -> AttentionMaps:
        """See [`Architecture.attention_maps`]: what the class token attends to, or all patches without one."""
        embeddings = model.embeddings
        patches = probabilities[..., embeddings.num_extra_tokens :]
        if embeddings.cls_token is not None:
            title, received = f"attention of the class token in block {position}", patches[:, :, 0]
        else:
            title, received = f"mean attention of all patches in block {position}", patches.mean(dim=-2)
        return AttentionMaps(title, received.unflatten(-1, embeddings.grid))

    def features(self, output: ModelOutput, config: SNPViTConfig) -> list[torch.Tensor]:
        """See [`Architecture.features`]; a class token that is pooled counts as much as all tokens."""
        if config.use_pooler and config.pooler_type == "cls":
            tokens = output.last_hidden_state
            return [output.pooler_output, tokens / tokens.shape[1] ** 0.5]
        return super().features(output, config)


def _describe_block(name: str, layer: nn.Module, num_tokens: int, num_extra_tokens: int) -> Block:
    attention = layer.attention
    is_gated = hasattr(layer.mlp, "gate_proj")
    up, down = ("up_proj", "down_proj") if is_gated else ("fc1", "fc2")
    return Block(
        name=name,
        module=layer,
        stream=0,
        num_maps=1,
        map_tokens=num_tokens,
        merged_tokens=0 if layer.token_merging is None else layer.token_merging.num_merged,
        num_patches=num_tokens - num_extra_tokens,
        num_attention_heads=attention.num_attention_heads,
        qk_head_dim=attention.qk_head_dim,
        v_head_dim=attention.v_head_dim,
        intermediate_size=layer.mlp.get_submodule(down).in_features,
        query=f"{name}.attention.q_proj",
        key=f"{name}.attention.k_proj",
        value=f"{name}.attention.v_proj",
        output=f"{name}.attention.o_proj",
        up=f"{name}.mlp.{up}",
        down=f"{name}.mlp.{down}",
        gate=f"{name}.mlp.gate_proj" if is_gated else None,
        drop_paths=[f"{name}.drop_path"],
    )


def _heads(model: SNPViTModel | SNPViTForImageClassification | SNPViTBackbone, base: str) -> list[str]:
    """The linear layers behind the final norm."""
    heads = [] if model.base_model.pooler is None else [f"{base}pooler.dense"]
    if isinstance(model, SNPViTForImageClassification):
        names = ("classifier", "distillation_classifier")
        heads += [name for name in names if isinstance(getattr(model, name), nn.Linear)]
    return heads


def _tokens_of_heads(model: SNPViTModel | SNPViTForImageClassification) -> tuple[Tokens, ...]:
    """What a pooler or the classifiers read."""
    config = model.config
    if config.norm_after_pooling:
        return (Tokens(),)  # what the norm gets is pooled already
    class_tokens = Tokens(stop=2 if config.use_distillation_token else 1)
    if not isinstance(model, SNPViTForImageClassification) or config.classifier_pooling == "cls":
        return (class_tokens,)
    patches = Tokens(start=model.base_model.embeddings.num_extra_tokens, averages=True)
    return (patches,) if config.classifier_pooling == "mean" else (Tokens(stop=1), patches)

"""The structure of [`SNPViTModel`] and its classifier: one residual stream through all blocks."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from ..models import (
    SNPASTForAudioClassification,
    SNPViTBackbone,
    SNPViTConfig,
    SNPViTForImageClassification,
    SNPViTModel,
)
from ..models.snp_vit.configuration_snp_vit import TOKENS_AS_POOLED
from .architecture import Architecture, AttentionMaps
from .description import Block, Norm, Stream, Structure, Tokens


# By the kind of the pooler: its layers that read the stream, and those behind them.
_POOLER_READERS = {"dense": ["dense"], "attention": ["k_proj", "v_proj"]}
_POOLER_LAYERS = {"dense": [], "attention": ["q_proj", "o_proj", "fc1", "fc2"]}


class ViTArchitecture(Architecture):
    """One residual stream, one attention map per head and image."""

    def describe(self, model: SNPViTModel | SNPViTForImageClassification | SNPViTBackbone) -> Structure:
        """See [`optimum_snp.structure.describe`].

        Raises:
            ValueError: If a model has its norm behind the pooling, but neither classifier nor pooler.
        """
        base_model = model.base_model
        embeddings = base_model.embeddings
        is_classifier = isinstance(model, SNPViTForImageClassification)
        if model.config.norm_after_pooling and not (is_classifier or model.config.use_pooler):
            raise ValueError("A model with norm_after_pooling can only be pruned as an image classifier.")
        base = "" if model is base_model else f"{model.base_model_prefix}."
        num_patches = model.config.num_patches
        num_tokens = num_patches + embeddings.num_extra_tokens

        patches = f"{base}embeddings.patch_embeddings.projection"
        blocks, writers, norms, rows = [], [patches], [], {patches: num_patches}
        num_left = num_tokens  # by the blocks that merge some; what comes behind the last block gets all again
        for index, layer in enumerate(base_model.layers):
            block = _describe_block(f"{base}layers.{index}", layer, num_left, embeddings.num_extra_tokens)
            blocks.append(block)
            writers += [block.output, block.down]
            norms.append(Norm(f"{block.name}.layernorm_before", block.attention_inputs))
            norms.append(Norm(f"{block.name}.layernorm_after", block.mlp_inputs))
            rows |= dict.fromkeys([*block.attention_inputs, block.output], num_left)
            num_left -= block.merged_tokens
            rows |= dict.fromkeys([*block.mlp_inputs, block.down], num_left)

        heads = _heads(model, base)
        # Of a model that projects, the image embeddings count; raw tokens are an output of all others that have them.
        is_output = not is_classifier and base_model.visual_projection is None
        normalizes = isinstance(base_model.layernorm, nn.LayerNorm)
        if normalizes or (base_model.layernorm is not None and heads):
            reads = _tokens_of_heads(model) if heads else (Tokens(),)
            pooled = None
            if model.config.norm_after_pooling and not is_classifier:
                is_mean = model.config.pooler_type == "mean"
                pooled = Tokens(start=embeddings.num_extra_tokens, averages=True) if is_mean else Tokens(stop=1)
            norms.append(
                Norm(
                    f"{base}layernorm",
                    heads,
                    reads=reads,
                    is_output=is_output,
                    normalizes=normalizes,
                    pooled=pooled,
                    gives_directions=heads == [f"{base}visual_projection"],
                )
            )
        vectors = [
            f"{base}embeddings.{name}"
            for name in ("cls_token", "position_embeddings", "distillation_token", "register_tokens")
            if getattr(embeddings, name) is not None
        ]
        # Tokens that no norm is over are an output as they are.
        gives_raw_tokens = is_output and (not normalizes or model.config.norm_after_pooling)
        stream = Stream(model.config.hidden_size, writers, vectors, norms, is_output=gives_raw_tokens)
        if base_model.reduction is not None:
            # Embeddings and the norm behind them have a size of their own.
            reduction = f"{base}reduction"
            stream = replace(stream, writers=[reduction, *writers[1:]], vectors=[])
            rows[reduction] = num_tokens
        elif base_model.pre_layernorm is not None:
            stream = replace(stream, scales=[f"{base}pre_layernorm"], reduction=f"{base}reduction")
        further_macs = 0
        if base_model.pooler is not None and _pooler(model) == "attention":
            further_macs = 2 * num_tokens * model.config.pooler_output_size  # scores and context of its one query
        rows |= _rows_behind_the_blocks(model, base, heads, num_tokens)
        return Structure(blocks, [stream], rows, further_macs)

    def block_sizes(self, config: SNPViTConfig) -> list[dict[str, Any]]:
        """See [`optimum_snp.structure.block_sizes`]."""
        return config.block_configs

    def stream_widths(self, config: SNPViTConfig) -> list[int]:
        """See [`optimum_snp.structure.stream_widths`]."""
        return [config.hidden_size]

    def block_stages(self, config: SNPViTConfig) -> list[int]:
        """See [`optimum_snp.structure.block_stages`]."""
        return [0] * len(config.block_configs)

    def query_key_step(self, config: SNPViTConfig) -> int:
        """See [`Architecture.query_key_step`]; rotary positions turn pairs of neurons."""
        return 1 if config.rope_theta is None else 2

    def num_mergeable_tokens(self, config: SNPViTConfig) -> int:
        """See [`Architecture.num_mergeable_tokens`]."""
        if config.rope_theta is not None or config.use_relative_position_bias:
            raise ValueError(
                "The attention of this model reads where its patches are, by rotary positions (DINOv3) or biases of "
                "relative positions (BEiT, data2vec-vision), which groups of patches are not given. Leave "
                "token_sparsity out."
            )
        return config.num_patches

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
        if config.pooler_type in TOKENS_AS_POOLED:
            fields["pooler_output_size"] = widths[0]
        if refits and widths[0] < config.hidden_size:
            fields["qkv_bias"] = True  # the norms' shift and the mean of what is dropped go there
            fields["key_bias"] = None  # as the others
            fields["projection_bias"] = config.projection_size is not None
            if config.use_pre_layernorm:
                fields["embedding_size"] = config.embedding_size or config.hidden_size
        return type(config).from_dict(fields)

    def patch_groups(self, model: SNPViTModel, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """See [`Architecture.patch_groups`]."""
        _, places, _, _ = model.encode(pixel_values)
        embeddings = model.embeddings
        return None if places is None else places[:, embeddings.num_extra_tokens :].unflatten(1, embeddings.grid)

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
        """See [`Architecture.features`]; a vector that is pooled counts as much as all tokens.

        Image embeddings are compared by their angles, so that only their direction counts; and so with what a
        projection would make embeddings of. Raw tokens count as a norm would leave them.
        """
        if config.projection_size is not None:
            return [direction(output.image_embeds)]
        if not config.use_pooler or config.pooler_type == "dense":
            return super().features(output, config)
        pooled, tokens = output.pooler_output, output.last_hidden_state
        if config.norm_after_pooling:
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        if config.norm_after_pooling or config.pooler_type == "attention":
            pooled = direction(pooled)
        return [pooled, tokens / tokens.shape[1] ** 0.5]


def direction(embeddings: torch.Tensor) -> torch.Tensor:
    """Embeddings, all of the length that independent channels of variance 1 have."""
    return F.normalize(embeddings, dim=-1) * embeddings.shape[-1] ** 0.5


def _describe_block(name: str, layer: nn.Module, num_tokens: int, num_extra_tokens: int) -> Block:
    attention = layer.attention
    is_gated = hasattr(layer.mlp, "gate_proj")
    up, down = ("up_proj", "down_proj") if is_gated else ("fc1", "fc2")
    score_modules = None
    if attention.query_rotation is not None:
        score_modules = (f"{name}.attention.query_rotation", f"{name}.attention.key_rotation")
    has_biases = attention.relative_position_bias is not None
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
        score_modules=score_modules,
        rotary_pairs=f"{name}.attention.rotary_pairs" if score_modules else None,
        per_head={f"{name}.attention.relative_position_bias.table": 1} if has_biases else {},
        drop_paths=[f"{name}.drop_path"],
    )


def _heads(model: SNPViTModel | SNPViTForImageClassification | SNPViTBackbone, base: str) -> list[str]:
    """The linear layers that read the final norm."""
    base_model = model.base_model
    heads = [] if base_model.pooler is None else [f"{base}pooler.{name}" for name in _POOLER_READERS[_pooler(model)]]
    if base_model.visual_projection is not None and base_model.pooler is None:
        heads.append(f"{base}visual_projection")
    if isinstance(model, SNPASTForAudioClassification):
        heads.append("classifier_projection")  # the classifier itself stands behind a norm of its own
    elif isinstance(model, SNPViTForImageClassification):
        names = ("classifier", "distillation_classifier")
        heads += [name for name in names if isinstance(getattr(model, name), nn.Linear)]
    return heads


def _pooler(model: SNPViTModel | SNPViTForImageClassification | SNPViTBackbone) -> str:
    """The kind of the pooler of a model that has one with weights."""
    return model.config.pooler_type


def _rows_behind_the_blocks(
    model: SNPViTModel | SNPViTForImageClassification | SNPViTBackbone, base: str, heads: list[str], num_tokens: int
) -> dict[str, int]:
    """See `Structure.linear_rows`."""
    base_model, rows = model.base_model, dict.fromkeys(heads, 1)
    if base_model.pooler is not None:
        if _pooler(model) == "attention":
            rows = dict.fromkeys(heads, num_tokens)
        rows |= {f"{base}pooler.{name}": 1 for name in _POOLER_LAYERS[_pooler(model)]}
    if base_model.visual_projection is not None:
        rows[f"{base}visual_projection"] = 1
    if isinstance(model, SNPASTForAudioClassification) and model.num_labels:
        rows["classifier"] = 1
    return rows


def _tokens_of_heads(model: SNPViTModel | SNPViTForImageClassification) -> tuple[Tokens, ...]:
    """What a pooler or the classifiers read."""
    config = model.config
    if config.norm_after_pooling or (model.base_model.pooler is not None and _pooler(model) == "attention"):
        return (Tokens(),)  # what the norm gets is pooled already, or all tokens are read
    if config.classifier_pooling == "cls_distillation":
        return (Tokens(stop=2, averages=True),)
    class_tokens = Tokens(stop=2 if config.use_distillation_token else 1)
    if not isinstance(model, SNPViTForImageClassification) or config.classifier_pooling == "cls":
        return (class_tokens,)
    patches = Tokens(start=model.base_model.embeddings.num_extra_tokens, averages=True)
    return (patches,) if config.classifier_pooling == "mean" else (Tokens(stop=1), patches)

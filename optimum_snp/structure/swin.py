"""The structure of [`SNPSwinModel`], its classifier and its backbone: one residual stream per stage.

Patch merging reads the stream of its stage, four tokens side by side, and writes the first of the next one. In a Swin
V2 all layers read the stream without a norm, and what they add to it goes through one.
"""

from typing import Any

import torch
from torch import nn

from ..models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from .architecture import Architecture, AttentionMaps
from .description import Block, Norm, Stream, Structure, Tokens, as_pair


# Of a Swin V2, by the fields of `SNPConfig`.
_WHOLE_IN_VERSION_2 = {
    "qk_sparsity": "the queries and keys of a Swin V2 stay whole: its attention divides each of them by its length "
    "over all neurons of the head, so that without one neuron all scores of the head are others",
    "hidden_sparsity": "the widths of a Swin V2 stay whole: norms write its residual streams, and their means and "
    "variances run over all channels of the layers before them, so that without one channel all others are others",
}


class SwinArchitecture(Architecture):
    """One residual stream per stage, one attention map per head and window."""

    def describe(self, model: SNPSwinModel | SNPSwinForImageClassification | SNPSwinBackbone) -> Structure:
        """See [`optimum_snp.structure.describe`]."""
        base_model = model.base_model
        base = "" if model is base_model else f"{model.base_model_prefix}."
        embeddings, config = f"{base}embeddings", model.config
        patches = f"{embeddings}.patch_embeddings.projection"
        grid = next(iter(base_model.stages[0].windows.values())).grid  # the same for all shifts
        rows = {patches: grid[0] * grid[1]}
        writers, scales = [patches], [f"{embeddings}.norm"]
        if base_model.embeddings.reduction is not None:
            writers, scales = [f"{embeddings}.reduction"], []
            rows[writers[0]] = rows[patches]
        vectors = [] if base_model.embeddings.position_embeddings is None else [f"{embeddings}.position_embeddings"]

        blocks, streams = [], []
        is_post_norm = config.swin_version == 2
        for index, stage in enumerate(base_model.stages):
            name = f"{base}stages.{index}"
            num_tokens, norms, readers, merging = grid[0] * grid[1], [], [], None
            for number, layer in enumerate(stage.blocks):
                block = _describe_block(f"{name}.blocks.{number}", layer, index, stage)
                blocks.append(block)
                writers += [block.output, block.down]
                if is_post_norm:
                    scales += [block.output_norm, block.down_norm]
                    readers += [*block.attention_inputs, *block.mlp_inputs]
                else:
                    norms.append(Norm(f"{block.name}.layernorm_before", block.attention_inputs, pads=True))
                    norms.append(Norm(f"{block.name}.layernorm_after", block.mlp_inputs))
                rows |= dict.fromkeys(block.layers, num_tokens)
                rows |= dict.fromkeys(block.attention_inputs, block.num_maps * block.map_tokens)
            norms += _feature_norms(model, index)
            stream_writers, stream_vectors, stream_scales = writers, vectors, scales
            if stage.downsample is not None:
                merging = f"{name}.downsample"
                reduction, norm = f"{merging}.reduction", f"{merging}.norm"
                if is_post_norm:
                    readers.append(reduction)
                else:
                    norms.append(Norm(norm, [reduction], repeats=4))
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
                rows[reduction] = grid[0] * grid[1]
                writers, vectors, scales = [reduction], [], [norm] if is_post_norm else []
            streams.append(
                Stream(
                    config.hidden_sizes[index],
                    stream_writers,
                    stream_vectors,
                    norms,
                    stream_scales,
                    readers=readers,
                    merging=merging,
                )
            )

        if isinstance(getattr(model, "classifier", None), nn.Linear):
            streams[-1].norms.append(Norm(f"{base}layernorm", ["classifier"], reads=(Tokens(averages=True),)))
            rows["classifier"] = 1
        else:
            normalizes = isinstance(base_model.layernorm, nn.LayerNorm)
            final = Norm(f"{base}layernorm", [], is_output=model is base_model, normalizes=normalizes)
            streams[-1].norms.append(final)
        return Structure(blocks, streams, rows)

    def block_sizes(self, config: SNPSwinConfig) -> list[dict[str, Any]]:
        """See [`optimum_snp.structure.block_sizes`]."""
        return [block for stage in config.block_configs for block in stage]

    def stream_widths(self, config: SNPSwinConfig) -> list[int]:
        """See [`optimum_snp.structure.stream_widths`]."""
        return config.hidden_sizes

    def block_stages(self, config: SNPSwinConfig) -> list[int]:
        """See [`optimum_snp.structure.block_stages`]."""
        return [stage for stage, blocks in enumerate(config.block_configs) for _ in blocks]

    def whole_parts(self, config: SNPSwinConfig) -> dict[str, str]:
        """See [`Architecture.whole_parts`]."""
        return _WHOLE_IN_VERSION_2 if config.swin_version == 2 else {}

    def resized_config(
        self, config: SNPSwinConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, refits: bool
    ) -> SNPSwinConfig:
        """See [`optimum_snp.structure.resized_config`]."""
        fields = config.to_dict()
        fields["block_configs"] = [[] for _ in widths]
        for block, stage in zip(blocks, self.block_stages(config), strict=True):
            if block is not None:
                fields["block_configs"][stage].append(block)
        fields["depths"] = [len(blocks) for blocks in fields["block_configs"]]
        fields["hidden_sizes"] = widths
        del fields["hidden_size"]  # the last of hidden_sizes
        if refits and widths != config.hidden_sizes:
            # The norms' shift and the mean of what is dropped go there.
            fields["qkv_bias"] = fields["merging_bias"] = True
        if refits and widths[0] < config.hidden_sizes[0] and config.patch_embedding_size is None:
            fields["patch_embedding_size"] = _filled_dimensions(config)
        return SNPSwinConfig.from_dict(fields)

    def blocks_with_maps(self, config: SNPSwinConfig) -> list[int]:
        """See [`Architecture.blocks_with_maps`]; of a Swin the last block of every stage."""
        stages = self.block_stages(config)
        return [index for index, stage in enumerate(stages) if stage not in stages[index + 1 :]]

    def attention_maps(self, model: SNPSwinModel, position: int, probabilities: torch.Tensor) -> AttentionMaps:
        """See [`Architecture.attention_maps`]; of each window the mean over all that attend, in its place."""
        stage = model.stages[position]
        windows = stage.windows[str(stage.blocks[-1].shift_size)]
        received = probabilities.mean(dim=-2)  # [images * windows, heads, area]
        by_window = received.unflatten(0, (-1, windows.tokens.shape[0] // received.shape[-1]))
        places = by_window.transpose(1, 2).flatten(2).index_select(2, windows.places.to(by_window.device))
        title = f"mean attention within the windows of the last block of stage {position}"
        return AttentionMaps(title, places.unflatten(-1, windows.grid))


def _describe_block(name: str, layer: nn.Module, stage: int, stage_module: nn.Module) -> Block:
    windows = stage_module.windows[str(layer.shift_size)]
    map_tokens, attention = len(windows.bias_index), layer.attention
    per_head = {f"{name}.attention.relative_position_bias_table": 1}
    score_modules = output_norm = down_norm = None
    if attention.query_norm is not None:  # Swin V2
        score_modules = (f"{name}.attention.query_norm", f"{name}.attention.key_norm")
        per_head[f"{score_modules[0]}.logit_scale"] = 0
        output_norm, down_norm = f"{name}.layernorm_before", f"{name}.layernorm_after"
    return Block(
        name=name,
        module=layer,
        stream=stage,
        num_maps=len(windows.tokens) // map_tokens,
        map_tokens=map_tokens,
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
        score_modules=score_modules,
        per_head=per_head,
        drop_paths=[f"{name}.drop_path"],
        output_norm=output_norm,
        down_norm=down_norm,
    )


def _feature_norms(model: SNPSwinModel | SNPSwinForImageClassification | SNPSwinBackbone, stage: int) -> list[Norm]:
    """The norms of a backbone's feature maps that read the stream of a stage; the stem's is that of the first."""
    names = [f"stage{stage + 1}", *(["stem"] if stage == 0 else [])]
    feature_norms = getattr(model, "hidden_states_norms", {})
    return [
        Norm(
            f"hidden_states_norms.{name}",
            [],
            is_output=True,
            normalizes=isinstance(feature_norms[name], nn.LayerNorm),
        )
        for name in names
        if name in feature_norms
    ]


def _filled_dimensions(config: SNPSwinConfig) -> int:
    """Dimensions that the patch convolution's outputs can fill, with those of its bias and of equal channels."""
    height, width = as_pair(config.patch_size)
    return min(config.hidden_sizes[0], config.num_channels * height * width + 2)

"""The structure of [`SNPSwinModel`], its classifier and its backbone: one residual stream per stage.

Patch merging reads the stream of its stage, four tokens side by side, and writes the first of the next one.
"""

from typing import Any

import torch

from ..models import SNPSwinBackbone, SNPSwinConfig, SNPSwinForImageClassification, SNPSwinModel
from .description import Block, Norm, Stream, Structure, as_pair


def describe(model: SNPSwinModel | SNPSwinForImageClassification | SNPSwinBackbone) -> Structure:
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
    for index, stage in enumerate(base_model.stages):
        name = f"{base}stages.{index}"
        num_tokens, norms = grid[0] * grid[1], []
        for number, layer in enumerate(stage.blocks):
            block = _describe_block(f"{name}.blocks.{number}", layer, index, stage)
            projections = [f"{block.name}.attention.{part}_proj" for part in "qkv"]
            outputs = [f"{block.name}.attention.o_proj", f"{block.name}.mlp.fc2"]
            blocks.append(block)
            writers += outputs
            norms.append(Norm(f"{block.name}.layernorm_before", projections, pads=True))
            norms.append(Norm(f"{block.name}.layernorm_after", [f"{block.name}.mlp.fc1"]))
            rows |= dict.fromkeys(projections, block.num_maps * block.map_tokens)
            rows |= dict.fromkeys([*outputs, f"{block.name}.mlp.fc1"], num_tokens)
        norms += _feature_norms(model, index)
        streams.append(Stream(config.hidden_sizes[index], writers, vectors, norms, scales))
        if stage.downsample is not None:
            merging = f"{name}.downsample.reduction"
            norms.append(Norm(f"{name}.downsample.norm", [merging], repeats=4))
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
            rows[merging] = grid[0] * grid[1]
            writers, vectors, scales = [merging], [], []

    if isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        streams[-1].norms.append(Norm(f"{base}layernorm", ["classifier"], averages=True))
        rows["classifier"] = 1
    else:
        streams[-1].norms.append(Norm(f"{base}layernorm", []))
    return Structure(blocks, streams, rows)


def _describe_block(name: str, layer: torch.nn.Module, stage: int, stage_module: torch.nn.Module) -> Block:
    windows = stage_module.windows[str(layer.shift_size)]
    map_tokens = len(windows.bias_index)
    return Block(name, layer, stage, num_maps=len(windows.tokens) // map_tokens, map_tokens=map_tokens)


def _feature_norms(model: SNPSwinModel | SNPSwinForImageClassification | SNPSwinBackbone, stage: int) -> list[Norm]:
    """The norms of a backbone's feature maps that read the stream of a stage; the stem's is that of the first."""
    names = [f"stage{stage + 1}", *(["stem"] if stage == 0 else [])]
    feature_norms = getattr(model, "hidden_states_norms", {})
    return [Norm(f"hidden_states_norms.{name}", []) for name in names if name in feature_norms]


def block_sizes(config: SNPSwinConfig) -> list[dict[str, Any]]:
    """See [`optimum_snp.structure.block_sizes`]."""
    return [block for stage in config.block_configs for block in stage]


def stream_widths(config: SNPSwinConfig) -> list[int]:
    """See [`optimum_snp.structure.stream_widths`]."""
    return config.hidden_sizes


def block_stages(config: SNPSwinConfig) -> list[int]:
    """See [`optimum_snp.structure.block_stages`]."""
    return [stage for stage, blocks in enumerate(config.block_configs) for _ in blocks]


def resized_config(
    config: SNPSwinConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, method: str
) -> SNPSwinConfig:
    """See [`optimum_snp.structure.resized_config`]."""
    fields = config.to_dict()
    fields["block_configs"] = [[] for _ in widths]
    for block, stage in zip(blocks, block_stages(config), strict=True):
        if block is not None:
            fields["block_configs"][stage].append(block)
    fields["depths"] = [len(blocks) for blocks in fields["block_configs"]]
    fields["hidden_sizes"] = widths
    del fields["hidden_size"]  # the last of hidden_sizes
    if method != "snp" and widths != config.hidden_sizes:
        # The norms' shift and the mean of what is dropped go there.
        fields["qkv_bias"] = fields["merging_bias"] = True
    if method != "snp" and widths[0] < config.hidden_sizes[0] and config.patch_embedding_size is None:
        fields["patch_embedding_size"] = _filled_dimensions(config)
    return SNPSwinConfig.from_dict(fields)


def _filled_dimensions(config: SNPSwinConfig) -> int:
    """Dimensions that the patch convolution's outputs can fill, with those of its bias and of equal channels."""
    height, width = as_pair(config.patch_size)
    return min(config.hidden_sizes[0], config.num_channels * height * width + 2)

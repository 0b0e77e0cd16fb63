"""The structure of models of images and texts: that of their vision tower, whose embeddings are what counts."""

from dataclasses import replace
from typing import Any

import torch
from transformers.utils import ModelOutput

from ..models import SNPCLIPModel, SNPMetaClip2Model, SNPSiglipModel
from ..models.snp_vit.configuration_snp_two_towers import SNPTwoTowersConfig
from .architecture import AttentionMaps
from .description import Block, Norm, Stream, Structure
from .vit import ViTArchitecture, direction


TOWER = "vision_model"
PROJECTION = "visual_projection"


class TwoTowersArchitecture(ViTArchitecture):
    """A vision tower among other parts, which stay whole."""

    def describe(self, model: SNPCLIPModel | SNPMetaClip2Model | SNPSiglipModel) -> Structure:
        """See [`optimum_snp.structure.describe`]."""
        tower = super().describe(model.vision_model)
        blocks = [_named_below(block) for block in tower.blocks]
        (stream,) = tower.streams
        norms = [_norm_below(norm) for norm in stream.norms]
        rows = {_below(name): count for name, count in tower.linear_rows.items()}
        # Of the outputs only the embeddings count.
        norms[-1] = replace(norms[-1], is_output=False)
        if hasattr(model, PROJECTION):
            norms[-1] = replace(norms[-1], readers=[PROJECTION], gives_directions=True)
            rows[PROJECTION] = 1
        return Structure(blocks, [_stream_below(stream, norms)], rows, tower.further_macs)

    def block_sizes(self, config: SNPTwoTowersConfig) -> list[dict[str, Any]]:
        """See [`optimum_snp.structure.block_sizes`]."""
        return super().block_sizes(config.vision_config)

    def stream_widths(self, config: SNPTwoTowersConfig) -> list[int]:
        """See [`optimum_snp.structure.stream_widths`]."""
        return super().stream_widths(config.vision_config)

    def block_stages(self, config: SNPTwoTowersConfig) -> list[int]:
        """See [`optimum_snp.structure.block_stages`]."""
        return super().block_stages(config.vision_config)

    def query_key_step(self, config: SNPTwoTowersConfig) -> int:
        """See [`Architecture.query_key_step`]."""
        return super().query_key_step(config.vision_config)

    def num_mergeable_tokens(self, config: SNPTwoTowersConfig) -> int:
        """See [`Architecture.num_mergeable_tokens`]."""
        return super().num_mergeable_tokens(config.vision_config)

    def resized_config(
        self, config: SNPTwoTowersConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, refits: bool
    ) -> SNPTwoTowersConfig:
        """See [`optimum_snp.structure.resized_config`]."""
        fields = config.to_dict()
        fields["vision_config"] = super().resized_config(config.vision_config, blocks, widths, refits=refits).to_dict()
        if refits and widths[0] < config.vision_config.hidden_size:
            fields["projection_bias"] = True
        return type(config).from_dict(fields)

    def patch_groups(
        self, model: SNPCLIPModel | SNPMetaClip2Model | SNPSiglipModel, pixel_values: torch.Tensor
    ) -> torch.Tensor | None:
        """See [`Architecture.patch_groups`]; those of the vision tower."""
        return super().patch_groups(model.vision_model, pixel_values)

    def blocks_with_maps(self, config: SNPTwoTowersConfig) -> list[int]:
        """See [`Architecture.blocks_with_maps`]; all of the vision tower."""
        return super().blocks_with_maps(config.vision_config)

    def attention_maps(
        self, model: SNPCLIPModel | SNPMetaClip2Model | SNPSiglipModel, position: int, probabilities: torch.Tensor
    ) -> AttentionMaps:
        """See [`Architecture.attention_maps`]; those of the vision tower."""
        return super().attention_maps(model.vision_model, position, probabilities)

    def features(self, output: ModelOutput, config: SNPTwoTowersConfig) -> list[torch.Tensor]:
        """See [`Architecture.features`]; of the image embeddings the direction, by which they are compared."""
        return [direction(output.image_embeds)]


def _below(name: str) -> str:
    return f"{TOWER}.{name}"


def _named_below(block: Block) -> Block:
    names = ("name", "query", "key", "value", "output", "up", "down", "gate")
    given = {name: getattr(block, name) for name in names if getattr(block, name) is not None}
    return replace(
        block,
        **{name: _below(value) for name, value in given.items()},
        per_head={_below(name): dimension for name, dimension in block.per_head.items()},
        drop_paths=[_below(name) for name in block.drop_paths],
    )


def _norm_below(norm: Norm) -> Norm:
    return replace(norm, name=_below(norm.name), readers=[_below(reader) for reader in norm.readers])


def _stream_below(stream: Stream, norms: list[Norm]) -> Stream:
    return replace(
        stream,
        writers=[_below(writer) for writer in stream.writers],
        vectors=[_below(vector) for vector in stream.vectors],
        norms=norms,
        scales=[_below(scale) for scale in stream.scales],
        reduction=None if stream.reduction is None else _below(stream.reduction),
        is_output=False,
    )

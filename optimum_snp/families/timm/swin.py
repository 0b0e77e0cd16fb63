"""timm's SwinTransformer of the first version."""

from typing import Any

from torch import nn

from ...models import SNPSwinConfig
from ..family import Weights
from .parts import activation_name, check_absent, check_type, common, norm_epsilon, rename, split_attention


# Names of weights outside of the stages, or beginnings of them.
_RENAMED = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "patch_embed.norm.": "embeddings.norm.",
    "norm.": "layernorm.",
    "head.fc.": "classifier.",
}
# The same within a block.
_RENAMED_IN_BLOCKS = {
    "norm1.": "layernorm_before.",
    "attn.proj.": "attention.o_proj.",
    "attn.relative_position_bias_table": "attention.relative_position_bias_table",
    "norm2.": "layernorm_after.",
    "mlp.": "mlp.",
}


def convert_config(
    timm_model: nn.Module, fields: dict[str, Any], *, is_classifier: bool, pools: bool
) -> SNPSwinConfig:
    """The config of our dense model; the arguments are those of [`optimum_snp.families.timm.vit.convert_config`]."""
    from timm.layers import Mlp, PatchEmbed
    from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention

    check_type("The class", timm_model, SwinTransformer)
    patch_embed = timm_model.patch_embed
    check_type("patch_embed", patch_embed, PatchEmbed)
    if timm_model.global_pool != "avg" and (is_classifier or (pools and timm_model.global_pool)):
        raise ValueError(f"global_pool of the timm Swin must be 'avg', got {timm_model.global_pool!r}.")
    stages = [list(stage.blocks) for stage in timm_model.layers]
    blocks = [block for stage in stages for block in stage]
    for block in blocks:
        check_type("A block", block, SwinTransformerBlock)
        check_type("attn", block.attn, WindowAttention)
        check_type("mlp", block.mlp, Mlp)
        check_absent("mlp.norm", block.mlp.norm, "it mixes all neurons of the MLP.")
        if block.always_partition:
            raise ValueError("always_partition of the timm Swin cuts windows where one would do; ours does not.")
    window_size = common("window size", {block.window_size for block in blocks})
    if window_size[0] != window_size[1]:
        raise ValueError(
            f"The windows of the timm Swin are {window_size[0]} x {window_size[1]}; only squares are read."
        )
    norms = {"norm": timm_model.norm}
    for number, block in enumerate(blocks):
        norms |= {f"norm1 of block {number}": block.norm1, f"norm2 of block {number}": block.norm2}
    fixed = {"patch_embed.norm": patch_embed.norm}
    fixed |= {f"layers.{index}.downsample.norm": stage.downsample.norm for index, stage in _merging(timm_model)}
    if norm_epsilon(fixed) != _DEFAULT_EPSILON:
        raise ValueError(f"The norms of embeddings and patch merging must have the epsilon {_DEFAULT_EPSILON}.")
    return SNPSwinConfig(
        **fields,
        image_size=list(patch_embed.img_size),
        patch_size=list(patch_embed.patch_size),
        num_channels=patch_embed.proj.in_channels,
        embed_dim=patch_embed.proj.out_channels,
        depths=[len(stage) for stage in stages],
        num_heads=[stage[0].attn.num_heads for stage in stages],
        window_size=window_size[0],
        mlp_ratio=float(blocks[0].mlp_ratio),
        qkv_bias=common("qkv_bias", {block.attn.qkv.bias is not None for block in blocks}),
        hidden_act=common("activation", {activation_name(block.mlp.act) for block in blocks}),
        use_pooler=is_classifier or (pools and bool(timm_model.global_pool)),
        layer_norm_eps=norm_epsilon(norms),
        hidden_sizes=[stage[0].norm1.weight.shape[0] for stage in stages],
        block_configs=[[_block_config(block) for block in stage] for stage in stages],
    )


def convert_weights(weights: Weights, *, is_bare: bool) -> Weights:
    """The weights under our names."""
    ours: Weights = {}
    for name, weight in weights.items():
        if not name.startswith("layers."):
            ours[rename(name, _RENAMED)] = weight
            continue
        _, stage, kind, rest = name.split(".", 3)
        if kind == "downsample":  # timm merges patches before the blocks of a stage, we behind those of the one before
            ours[f"stages.{int(stage) - 1}.downsample.{rest}"] = weight
            continue
        index, part = rest.split(".", 1)
        parts = split_attention(part, weight) if "attn.qkv." in part else {rename(part, _RENAMED_IN_BLOCKS): weight}
        ours |= {f"stages.{stage}.blocks.{index}.{name}": weight for name, weight in parts.items()}
    return {
        name if is_bare or name.startswith("classifier.") else f"snp_swin.{name}": weight
        for name, weight in ours.items()
    }


_DEFAULT_EPSILON = 1e-5


def _merging(timm_model: nn.Module) -> list[tuple[int, nn.Module]]:
    return [(index, stage) for index, stage in enumerate(timm_model.layers) if index > 0]


def _block_config(block: nn.Module) -> dict[str, Any]:
    attention = block.attn
    head_dim = attention.proj.in_features // attention.num_heads
    return {
        "num_attention_heads": attention.num_heads,
        "qk_head_dim": head_dim,
        "v_head_dim": head_dim,
        "intermediate_size": block.mlp.fc2.in_features,
        "attention_scale": attention.scale,
        # That of stages with more than one window; those with one are not shifted here either.
        "shift_size": block.target_shift_size[0],
    }

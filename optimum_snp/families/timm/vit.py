"""timm's VisionTransformer, and the DeiT with a distillation token that is derived from it."""

from typing import Any

import torch
from torch import nn

from ...models import SNPViTConfig
from ..family import Weights
from .parts import activation_name, check_absent, check_type, common, norm_epsilon, rename, split_attention


_QK_NORM = (
    "qk_norm divides every query and key by its length over all neurons of the head, so that what a single neuron "
    "adds to the attention scores cannot be told apart."
)
_POOLING = {"token": "cls", "avg": "mean"}
_POOLING_REASONS = {
    "map": "attention pooling is one more attention layer",
    "prr": "attention pooling is one more attention layer",
    "max": "a maximum over tokens is not linear in them",
    "avgmax": "a maximum over tokens is not linear in them",
    "": "the head reads all tokens",
}

# Names of weights outside of the blocks, or beginnings of them.
_RENAMED = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "norm.": "layernorm.",
    "fc_norm.": "layernorm.",
    "head.": "classifier.",
    "head_dist.": "distillation_classifier.",
}
_HEADS = ("classifier.", "distillation_classifier.")
# The same within a block.
_RENAMED_IN_BLOCKS = {
    "norm1.": "layernorm_before.",
    "attn.proj.": "attention.o_proj.",
    "norm2.": "layernorm_after.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
    "mlp.fc1_g.": "mlp.gate_proj.",
    "mlp.fc1_x.": "mlp.up_proj.",
}
# The layers that layer scale scales, and that may have no bias.
_SCALED = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}


def convert_config(timm_model: nn.Module, fields: dict[str, Any], *, is_classifier: bool, pools: bool) -> SNPViTConfig:
    """The config of our dense model.

    Args:
        timm_model (`nn.Module`):
            The model of timm.
        fields (`dict`):
            What the config of its wrapper says.
        is_classifier (`bool`):
            Whether it classifies.
        pools (`bool`):
            Whether a bare model puts out what it pools.

    Raises:
        ValueError: If a part cannot be expressed; the message names it.
    """
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    check_type("The class", timm_model, VisionTransformer, VisionTransformerDistilled)
    is_distilled = type(timm_model) is VisionTransformerDistilled
    blocks = list(timm_model.blocks)
    _check_embeddings(timm_model)
    for index, block in enumerate(blocks):
        _check_block(f"blocks.{index}", block)
    final_norm = _final_norm(timm_model)
    norms = {
        f"blocks.{index}.{name}": getattr(block, name)
        for index, block in enumerate(blocks)
        for name in ("norm1", "norm2")
    }
    patch_embed = timm_model.patch_embed
    norms_pooled, pooling, uses_pooler = final_norm is timm_model.fc_norm, None, False
    if is_classifier:
        pooling = _pooling(timm_model)
        # Of the class token alone it is the same as of all tokens.
        norms_pooled = norms_pooled and pooling != "cls"
    elif norms_pooled:
        raise ValueError("fc_norm of the timm model norms what is pooled. Load it as an image classifier.")
    else:
        uses_pooler = pools and bool(timm_model.global_pool)
        if uses_pooler and (timm_model.global_pool != "token" or is_distilled):
            raise ValueError(
                f"The timm model pools by {'both tokens' if is_distilled else timm_model.global_pool!r}, and a bare "
                "model of ours only gives the class token. Load it as an image classifier, or set do_pooling=False."
            )
    return SNPViTConfig(
        **fields,
        hidden_size=timm_model.embed_dim,
        num_attention_heads=blocks[0].attn.num_heads,
        intermediate_size=blocks[0].mlp.fc2.in_features,
        hidden_act=common("activation", {activation_name(block.mlp.act) for block in blocks}),
        layer_norm_eps=norm_epsilon({**norms, "norm": final_norm}),
        image_size=list(patch_embed.img_size),
        patch_size=list(patch_embed.patch_size),
        num_channels=patch_embed.proj.in_channels,
        qkv_bias=common("qkv_bias", {block.attn.qkv.bias is not None for block in blocks}),
        patch_embedding_bias=patch_embed.proj.bias is not None,
        use_cls_token=timm_model.cls_token is not None,
        num_register_tokens=timm_model.num_reg_tokens,
        use_distillation_token=is_distilled,
        use_distillation_head=is_distilled and is_classifier,
        use_gated_mlp=common("MLP", {hasattr(block.mlp, "fc1_g") or _is_packed(block.mlp) for block in blocks}),
        use_pooler=uses_pooler,
        pooler_type="cls",
        classifier_pooling=pooling,
        norm_after_pooling=norms_pooled,
        interpolate_pos_encoding=timm_model.dynamic_img_size,
        interpolation_antialias=timm_model.dynamic_img_size,
        block_configs=[_block_config(block) for block in blocks],
    )


def with_own_positions(weights: Weights, timm_model: nn.Module) -> Weights:
    """The weights with position embeddings as ours has them: of class token, distillation token and patches.

    Those of registers go into the registers, missing ones are zeros.
    """
    weights = dict(weights)
    registers, width = timm_model.num_reg_tokens, timm_model.embed_dim
    positioned = timm_model.num_prefix_tokens - registers
    positions = weights.get("timm_model.pos_embed")
    reference = weights["timm_model.patch_embed.proj.weight"]
    zeros = reference.new_zeros(1, positioned, width)
    if positions is None:
        positions = torch.cat((zeros, reference.new_zeros(1, timm_model.patch_embed.num_patches, width)), dim=1)
    elif timm_model.no_embed_class and positions.shape[1] == timm_model.patch_embed.num_patches:
        positions = torch.cat((zeros, positions), dim=1)
    elif registers:
        of_registers = positions[:, positioned : positioned + registers]
        weights["timm_model.reg_token"] = weights["timm_model.reg_token"] + of_registers
        positions = torch.cat((positions[:, :positioned], positions[:, positioned + registers :]), dim=1)
    weights["timm_model.pos_embed"] = positions
    return weights


def convert_weights(weights: Weights, *, is_bare: bool) -> Weights:
    """The weights under our names."""
    ours: Weights = {}
    blocks: dict[str, Weights] = {}
    for name, weight in weights.items():
        if name.startswith("blocks."):
            _, index, part = name.split(".", 2)
            blocks.setdefault(index, {})[part] = weight
        else:
            ours[rename(name, _RENAMED)] = weight
    for index, block in blocks.items():
        ours |= {f"layers.{index}.{name}": weight for name, weight in _convert_block(block).items()}
    return {name if is_bare or name.startswith(_HEADS) else f"snp_vit.{name}": weight for name, weight in ours.items()}


def _convert_block(block: Weights) -> Weights:
    block = dict(block)
    for gamma, layer in _SCALED.items():
        weight = block[f"{layer}.weight"]
        bias = block.get(f"{layer}.bias", weight.new_zeros(len(weight)))
        scale = block.pop(gamma, None)
        if scale is not None:
            weight, bias = scale.unsqueeze(1) * weight, scale * bias
        block |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    for name in ("mlp.fc1", "mlp.fc1_g", "mlp.fc1_x"):
        if f"{name}.weight" in block:
            weight = block[f"{name}.weight"]
            block.setdefault(f"{name}.bias", weight.new_zeros(len(weight)))
    if len(block.get("mlp.fc1.weight", ())) == 2 * block["mlp.fc2.weight"].shape[1]:  # gate and up in one
        for kind in ("weight", "bias"):
            block[f"mlp.fc1_g.{kind}"], block[f"mlp.fc1_x.{kind}"] = block.pop(f"mlp.fc1.{kind}").chunk(2)
    ours: Weights = {}
    for name, weight in block.items():
        if name.startswith("attn.qkv."):
            ours |= split_attention(name, weight)
        else:
            ours[rename(name, _RENAMED_IN_BLOCKS)] = weight
    if "mlp.gate_proj.weight" in ours:
        for kind in ("weight", "bias"):
            ours[f"mlp.down_proj.{kind}"] = ours.pop(f"mlp.fc2.{kind}")
    return ours


def _check_embeddings(timm_model: nn.Module) -> None:
    from timm.layers import PatchEmbed

    patch_embed = timm_model.patch_embed
    check_type("patch_embed", patch_embed, PatchEmbed)
    check_absent("patch_embed.norm", patch_embed.norm, "a norm on the patches has no place in our ViT.")
    check_absent(
        "norm_pre", timm_model.norm_pre, "no stage knows how the width passes a norm between embeddings and blocks."
    )
    if patch_embed.dynamic_img_pad:
        raise ValueError("dynamic_img_pad of the timm model pads images to whole patches, which our ViT does not.")
    if patch_embed.img_size is None:
        raise ValueError("The timm model has no img_size, so that its position embeddings have no shape.")
    if timm_model.num_reg_tokens and hasattr(timm_model, "dist_token"):
        raise ValueError("The timm model has registers and a distillation token, of which it uses only the latter.")


def _check_block(where: str, block: nn.Module) -> None:
    from timm.layers import Attention, GluMlp, LayerScale, Mlp, SwiGLU
    from timm.models.vision_transformer import Block

    check_type(where, block, Block)
    attention, mlp = block.attn, block.mlp
    check_type(f"{where}.attn", attention, Attention)
    check_absent(f"{where}.attn.q_norm", attention.q_norm, _QK_NORM)
    check_absent(f"{where}.attn.k_norm", attention.k_norm, _QK_NORM)
    check_absent(f"{where}.attn.norm", attention.norm, "it mixes the values of all heads before the output layer.")
    gate = getattr(attention, "gate", None)
    check_absent(f"{where}.attn.gate", gate, "it multiplies the attention's output by a second product.")
    check_type(f"{where}.mlp", mlp, Mlp, GluMlp, SwiGLU)
    check_absent(f"{where}.mlp.norm", mlp.norm, "it mixes all neurons of the MLP.")
    if getattr(mlp, "gate_last", False):
        raise ValueError(f"{where}.mlp of the timm model has its gate behind what it gates (gate_last=True).")
    for name in ("ls1", "ls2"):
        check_type(f"{where}.{name}", getattr(block, name), LayerScale, nn.Identity)


def _final_norm(timm_model: nn.Module) -> nn.Module:
    """The norm behind the blocks, wherever it stands."""
    if not isinstance(timm_model.norm, nn.Identity):
        check_absent("fc_norm", timm_model.fc_norm, "there is a final norm already.")
        return timm_model.norm
    if isinstance(timm_model.fc_norm, nn.Identity):
        raise ValueError("The timm model has no final norm (final_norm=False); such a model cannot be pruned.")
    return timm_model.fc_norm


def _pooling(timm_model: nn.Module) -> str:
    """What a classifier reads, in our words."""
    pool = timm_model.global_pool
    if pool not in _POOLING or timm_model.attn_pool is not None:
        raise ValueError(
            f"global_pool={pool!r} of the timm model cannot be pruned: {_POOLING_REASONS.get(pool, 'it is unknown')}. "
            f"Supported are {', '.join(map(repr, _POOLING))}."
        )
    if pool == "avg" and timm_model.pool_include_prefix and timm_model.num_prefix_tokens:
        raise ValueError("pool_include_prefix of the timm model averages class token and registers with the patches.")
    return _POOLING[pool]


def _is_packed(mlp: nn.Module) -> bool:
    return mlp.fc1.out_features == 2 * mlp.fc2.in_features if hasattr(mlp, "fc1") else False


def _block_config(block: nn.Module) -> dict[str, Any]:
    attention = block.attn
    return {
        "num_attention_heads": attention.num_heads,
        "qk_head_dim": attention.head_dim,
        "v_head_dim": attention.head_dim,
        "intermediate_size": block.mlp.fc2.in_features,
        "attention_scale": attention.scale,
    }

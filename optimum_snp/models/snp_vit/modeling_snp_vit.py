"""A vision transformer (ViT, DeiT, DINOv2, DINOv3, BEiT) whose every block has its own sizes.

This file is copied into every saved checkpoint. It must import nothing but torch, transformers and its configuration,
and must load under transformers 4.57 and 5.x.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_snp_vit import SNPViTConfig, as_pair, check_activation


try:
    from transformers.backbone_utils import BackboneMixin
except ImportError:  # transformers 4.57
    from transformers.utils.backbone_utils import BackboneMixin


def build_norm(config, size=None):
    """A layer norm over the residual stream, or over `size` channels."""
    return nn.LayerNorm(config.hidden_size if size is None else size, eps=config.layer_norm_eps)


def build_activation(config, field):
    """The activation that `config` names in `field`, which may have changed since the config was made."""
    check_activation(field, getattr(config, field))
    return ACT2FN[getattr(config, field)]


def refuse_masks(arguments):
    """Lets keyword arguments pass that nothing here reads, as transformers does, but none that it would apply."""
    masks = [name for name in ("attention_mask", "bool_masked_pos", "head_mask") if arguments.get(name) is not None]
    if masks:
        raise ValueError(f"This architecture applies no masks, but was given {', '.join(masks)}. Leave them out.")


class SNPViTPatchEmbeddings(nn.Module):
    """Cuts images `[batch, channels, height, width]` into patches and embeds them: `[batch, patches, hidden_size]`."""

    def __init__(self, config):
        super().__init__()
        patch_size = as_pair(config.patch_size)
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(
            config.num_channels,
            config.embedding_size or config.hidden_size,
            kernel_size=patch_size,
            stride=config.strides,
            bias=config.patch_embedding_bias,
        )

    def forward(self, pixel_values):
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(f"The images have {pixel_values.shape[1]} channels; the model reads {self.num_channels}.")
        return self.projection(pixel_values).flatten(2).transpose(1, 2)


class SNPViTEmbeddings(nn.Module):
    """Patches behind the other tokens, with position embeddings: the first residual stream.

    The other tokens are, as far as the config has them, the class token, the distillation token (DeiT) and the
    registers; registers have no position embedding.
    """

    def __init__(self, config):
        super().__init__()
        self.image_size = as_pair(config.image_size)
        self.config = config
        self.grid = config.grid
        self.interpolate = config.interpolate_pos_encoding
        self.antialias = config.interpolation_antialias

        def build_tokens(number):
            return nn.Parameter(torch.zeros(1, number, config.embedding_size or config.hidden_size))

        self.cls_token = build_tokens(1) if config.use_cls_token else None
        self.distillation_token = build_tokens(1) if config.use_distillation_token else None
        self.register_tokens = build_tokens(config.num_register_tokens) if config.num_register_tokens else None
        self.num_positioned_tokens = sum(token is not None for token in (self.cls_token, self.distillation_token))
        self.num_extra_tokens = config.num_extra_tokens
        self.patch_embeddings = SNPViTPatchEmbeddings(config)
        self.position_embeddings = None
        if config.use_position_embeddings:
            self.position_embeddings = build_tokens(self.num_positioned_tokens + self.grid[0] * self.grid[1])
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_pos_encoding(self, grid):
        """The position embeddings for `height` x `width` patches, by bicubic interpolation."""
        extra = self.position_embeddings[:, : self.num_positioned_tokens]
        patches = self.position_embeddings[:, self.num_positioned_tokens :]
        dtype = patches.dtype
        patches = patches.reshape(1, *self.grid, -1).permute(0, 3, 1, 2)
        if self.interpolate:
            patches = patches.float()  # as DINOv2 does; ViT interpolates in its own dtype
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False, antialias=self.antialias)
        return torch.cat((extra, patches.to(dtype).flatten(2).transpose(1, 2)), dim=1)

    def forward(self, pixel_values, interpolate_pos_encoding=None):
        batch_size, _, height, width = pixel_values.shape
        patches = self.patch_embeddings(pixel_values)
        interpolate = self.interpolate if interpolate_pos_encoding is None else interpolate_pos_encoding
        interpolate = interpolate or self.position_embeddings is None
        if not interpolate and (height, width) != self.image_size:
            raise ValueError(
                f"The images are {height}x{width} pixels; the model reads {self.image_size[0]}x{self.image_size[1]}. "
                "Resize them or pass interpolate_pos_encoding=True."
            )
        grid = self.config.grid_of((height, width))
        tokens = [token for token in (self.cls_token, self.distillation_token) if token is not None]
        tokens = [token.expand(batch_size, -1, -1) for token in tokens]
        hidden_states = torch.cat([*tokens, patches], dim=1)
        if self.position_embeddings is not None:
            hidden_states = hidden_states + (
                self.position_embeddings if grid == self.grid else self.interpolate_pos_encoding(grid)
            )
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(batch_size, -1, -1)
            place = self.num_positioned_tokens
            hidden_states = torch.cat((hidden_states[:, :place], registers, hidden_states[:, place:]), dim=1)
        return self.dropout(hidden_states)


class SNPViTRotaryPositions(nn.Module):
    """How far the positions of patches turn every pair of neurons: cosines and sines, `[patches, pairs]` each.

    The first half of the pairs turns with the height of a patch in the image, the second half with its width, both
    from -1 to 1, each pair of a half with a period of its own (DINOv3).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.theta = config.rope_theta
        self.head_dim = config.rope_head_dim

    def forward(self, pixel_values):
        grid = self.config.grid_of(pixel_values.shape[2:])
        # In float32 whatever the weights are, as in transformers.
        options = {"dtype": torch.float32, "device": pixel_values.device}
        places = [torch.arange(0.5, size, **options) / size for size in grid]
        places = 2.0 * torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).flatten(0, 1) - 1.0
        frequencies = 1 / self.theta ** torch.arange(0, 1, 4 / self.head_dim, **options)
        angles = (2 * torch.pi * places[:, :, None] * frequencies).flatten(1)
        return angles.cos().to(pixel_values.dtype), angles.sin().to(pixel_values.dtype)


class SNPViTRotation(nn.Module):
    """Turns queries or keys `[batch, tokens, heads * qk_head_dim]` in pairs, half a head apart; the patches come last.

    A module, so that what attention reads can be observed.
    """

    def __init__(self, num_attention_heads):
        super().__init__()
        self.num_attention_heads = num_attention_heads

    def forward(self, hidden_states, cos, sin):
        num_others = hidden_states.shape[1] - len(cos)
        first, second = hidden_states.unflatten(-1, (self.num_attention_heads, 2, -1))[:, num_others:].unbind(-2)
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2).flatten(2)
        return torch.cat((hidden_states[:, :num_others], turned), dim=1)


class SNPViTRelativePositions(nn.Module):
    """Where the biases of all pairs of tokens stand in a table for the grid of patches of these images.

    Puts out the grid and the rows `[tokens, tokens]`. A table has a row for every distance of two patches, from the
    least height and width on, and three more: from the class token to patches, from patches to it, and to itself.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, pixel_values):
        height, width = self.config.grid_of(pixel_values.shape[2:])
        rows, columns = (torch.arange(size, device=pixel_values.device) for size in (height, width))
        rows, columns = (places.flatten() for places in torch.meshgrid(rows, columns, indexing="ij"))
        distances = rows.unsqueeze(1) - rows + height - 1
        index = distances * (2 * width - 1) + columns.unsqueeze(1) - columns + width - 1
        from_class_token = (2 * height - 1) * (2 * width - 1)
        index = F.pad(index, (0, 0, 1, 0), value=from_class_token)
        index = F.pad(index, (1, 0, 0, 0), value=from_class_token + 1)
        itself = F.pad(torch.ones_like(index[:1, :1]), (0, height * width, 0, height * width))
        return (height, width), index + itself


class SNPViTRelativePositionBias(nn.Module):
    """Biases of the attention scores by relative position: `[1, heads, tokens, tokens]`."""

    def __init__(self, config, num_attention_heads):
        super().__init__()
        self.grid = config.grid
        num_distances = (2 * self.grid[0] - 1) * (2 * self.grid[1] - 1)
        self.table = nn.Parameter(torch.zeros(num_distances + 3, num_attention_heads))

    def forward(self, grid, index):
        table = self.table
        if grid != self.grid:
            distances = table[:-3].T.reshape(1, -1, 2 * self.grid[0] - 1, 2 * self.grid[1] - 1)
            distances = F.interpolate(distances, size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bilinear")
            table = torch.cat((distances.flatten(2).squeeze(0).T, table[-3:]))
        return table[index].permute(2, 0, 1).unsqueeze(0)


def eager_attention(query, key, value, scale, dropout, bias=None):
    """Plain attention: `[batch, heads, tokens, v_head_dim]` and the probabilities `[batch, heads, tokens, tokens]`."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    scores = scores if bias is None else scores + bias
    probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(F.dropout(probabilities, p=dropout), value), probabilities


def gather_tokens(states, places):
    """The tokens of `[batch, tokens, channels]` at `[batch, places]`: the places of all tokens unmerge what merged."""
    batch_size, num_tokens, num_channels = states.shape
    rows = places + num_tokens * torch.arange(batch_size, device=places.device).unsqueeze(1)
    # Whole rows are copied: indices that are spread over the channels would be read one by one.
    return states.reshape(-1, num_channels).index_select(0, rows.flatten()).view(*places.shape, num_channels)


def unmerge_attentions(probabilities, token_sizes, places):
    """From the attention between merged tokens to that between all: the members of a group share what it receives."""
    num_heads, num_tokens = probabilities.shape[1], places.shape[1]
    shares = (probabilities / token_sizes.to(probabilities.dtype)[:, None, None]).gather(
        3, places[:, None, None].expand(-1, num_heads, probabilities.shape[2], -1)
    )
    return shares.gather(2, places[:, None, :, None].expand(-1, num_heads, -1, num_tokens))


def cosines(vectors, start):
    """Of every other vector of `[batch, n, channels]`, from `start` on, with those between: `[batch, even, odd]`."""
    vectors = vectors.detach().float()
    scales = (vectors * vectors).sum(dim=-1).clamp_min(1e-24).rsqrt()
    products = torch.matmul(vectors[:, start::2], vectors[:, start + 1 :: 2].transpose(1, 2))
    return products * (scales[:, start::2, None] * scales[:, None, start + 1 :: 2])


def largest(values, count):
    """Which of `[batch, n]` are the `count` largest; of equals the first are.

    By the least of them, which is the same on all backends: those break ties in ways of their own, and exporters know
    no stable sort.
    """
    least = values.topk(count, dim=-1).values[:, -1:]
    is_larger, is_equal = values > least, values == least
    num_equal = count - is_larger.sum(dim=-1, keepdim=True)
    return is_larger | (is_equal & (is_equal.cumsum(dim=-1) <= num_equal))


class SNPViTTokenMerging(nn.Module):
    """Makes fewer tokens: the most alike pairs of patches become their means (ToMe, arXiv 2210.09461).

    The patches are split into two sets in turn. Each of the first has its most alike one of the second, by the cosine
    of their keys, of all heads, plus that of their states (our choice: docs/tokens.md); the `num_merged` best of these
    pairs are merged, weighted by how many patches each token stands for. Other tokens than patches stay. Of equals the
    first counts, on every backend, and tokens keep their order, so that a rounding error changes nothing but a pair.
    """

    def __init__(self, num_merged, num_extra_tokens):
        super().__init__()
        self.num_merged = num_merged
        self.num_extra_tokens = num_extra_tokens

    def forward(self, hidden_states, keys, token_sizes):
        """From `[batch, tokens, channels]`, `[batch, tokens, ...]` and `[batch, tokens]` to the merged tokens, their
        sizes, and for every token the place `[batch, tokens]` that it has then.
        """
        extra, num_merged = self.num_extra_tokens, self.num_merged
        batch_size, num_patches = hidden_states.shape[0], hidden_states.shape[1] - extra
        if 2 * num_merged > num_patches:
            raise ValueError(
                f"A block merges {num_merged} tokens, more than half of the {num_patches} patches that reach it. "
                "Images must be at least as large as the model is configured for."
            )
        num_first, num_second = (num_patches + 1) // 2, num_patches // 2
        num_kept = num_first - num_merged
        similarity, partners = (cosines(keys, extra) + cosines(hidden_states, extra)).max(dim=-1)
        is_merged = largest(similarity, num_merged)

        # The first set with those that merge behind the others, and the second one.
        positions = torch.arange(num_first, device=similarity.device)
        order = (positions + num_first * is_merged).argsort(dim=-1)
        first = gather_tokens(hidden_states, 2 * order + extra)
        first_sizes = token_sizes.gather(1, 2 * order + extra)
        second, second_sizes = hidden_states[:, extra + 1 :: 2], token_sizes[:, extra + 1 :: 2]

        # What merges has its share of the mean of its group; a token to which nothing comes has all of its own.
        partners_of_merged = partners.gather(1, order[:, num_kept:])
        is_partner = positions[:num_second, None] == partners_of_merged.unsqueeze(1)  # [batch, second set, merged]
        added_sizes = is_partner * first_sizes[:, None, num_kept:]
        merged_sizes = second_sizes + added_sizes.sum(dim=-1)
        shares = added_sizes / merged_sizes.unsqueeze(-1)
        second = second * (second_sizes / merged_sizes).unsqueeze(-1) + torch.matmul(shares, first[:, num_kept:])
        hidden_states = torch.cat((hidden_states[:, :extra], first[:, :num_kept], second), dim=1)
        token_sizes = torch.cat((token_sizes[:, :extra], first_sizes[:, :num_kept], merged_sizes), dim=1)

        first_places = torch.where(is_merged, num_kept + partners, positions - is_merged.cumsum(dim=-1))
        second_places = (num_kept + positions).expand(batch_size, -1)  # one too many of an odd number of patches
        places = torch.stack((first_places, second_places), dim=2).flatten(1)[:, :num_patches] + extra
        extra_places = torch.arange(extra, device=similarity.device).expand(batch_size, -1)
        return hidden_states, token_sizes, torch.cat((extra_places, places), dim=1)


class SNPViTAttention(nn.Module):
    """Self-attention whose queries and keys may be narrower or wider than its values."""

    # Read by the attention functions of transformers.
    is_causal = False

    def __init__(self, config, block):
        super().__init__()
        self.config = config
        self.num_attention_heads = block["num_attention_heads"]
        self.qk_head_dim = block["qk_head_dim"]
        self.v_head_dim = block["v_head_dim"]
        self.scaling = block["attention_scale"]
        self.attention_dropout = config.attention_probs_dropout_prob
        qk_size = self.num_attention_heads * self.qk_head_dim
        v_size = self.num_attention_heads * self.v_head_dim
        self.q_proj = nn.Linear(config.hidden_size, qk_size, bias=config.qkv_bias)
        key_bias = config.qkv_bias if config.key_bias is None else config.key_bias
        self.k_proj = nn.Linear(config.hidden_size, qk_size, bias=key_bias)
        self.v_proj = nn.Linear(config.hidden_size, v_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(v_size, config.hidden_size)
        self.query_rotation = self.key_rotation = None
        if config.rope_theta is not None:
            self.query_rotation = SNPViTRotation(self.num_attention_heads)
            self.key_rotation = SNPViTRotation(self.num_attention_heads)
            # Which pairs of the dense network every head has.
            pairs = torch.arange(self.qk_head_dim // 2).expand(self.num_attention_heads, -1).clone()
            self.register_buffer("rotary_pairs", pairs)
        self.relative_position_bias = None
        if config.use_relative_position_bias:
            self.relative_position_bias = SNPViTRelativePositionBias(config, self.num_attention_heads)

    def forward(
        self, hidden_states, output_attentions=False, positions=None, relative_positions=None, token_sizes=None
    ):
        """What attention adds, the probabilities where they are asked for, and the keys `[batch, tokens, qk_size]`."""
        batch_size, num_tokens, _ = hidden_states.shape
        qk_shape = (batch_size, num_tokens, self.num_attention_heads, self.qk_head_dim)
        v_shape = (batch_size, num_tokens, self.num_attention_heads, self.v_head_dim)
        query, keys = self.q_proj(hidden_states), self.k_proj(hidden_states)
        if positions is not None:
            cos, sin = (turns[:, self.rotary_pairs] for turns in positions)  # [patches, heads, pairs]
            query, keys = self.query_rotation(query, cos, sin), self.key_rotation(keys, cos, sin)
        query, key, value = query.view(qk_shape), keys.view(qk_shape), self.v_proj(hidden_states).view(v_shape)
        dropout = self.attention_dropout if self.training else 0.0
        bias = None if relative_positions is None else self.relative_position_bias(*relative_positions)
        if token_sizes is not None:  # a token that stands for several counts as often in the softmax
            bias = token_sizes.log().to(query.dtype)[:, None, None]

        implementation = self.config._attn_implementation
        if implementation == "eager" or output_attentions:
            query, key, value = (states.transpose(1, 2) for states in (query, key, value))
            context, probabilities = eager_attention(query, key, value, self.scaling, dropout, bias)
            context = context.transpose(1, 2)
        else:
            if bias is not None and implementation != "sdpa":
                raise ValueError(
                    f"attn_implementation {implementation!r} adds no biases to attention scores, but this model has "
                    "some, of relative positions or of tokens that are merged. Choose 'sdpa' or 'eager'."
                )
            # The fused kernels want one size for query, key and value, and those of CUDA a multiple of 8. Zeros change
            # neither scores nor outputs. They come before heads and tokens trade places: behind it, a head alone with
            # one query gets strides that CUDA's kernels do not take.
            size = max(self.qk_head_dim, self.v_head_dim)
            size += -size % 8 if query.is_cuda else 0
            query, key, value = (
                (F.pad(states, (0, size - states.shape[-1])) if states.shape[-1] < size else states).transpose(1, 2)
                for states in (query, key, value)
            )
            context, probabilities = ALL_ATTENTION_FUNCTIONS[implementation](
                self, query, key, value, bias, dropout=dropout, scaling=self.scaling
            )
            context = context[..., : self.v_head_dim]
        return self.o_proj(context.reshape(batch_size, num_tokens, -1)), probabilities, keys


class SNPViTMLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config, block):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, block["intermediate_size"])
        self.activation_fn = build_activation(config, "hidden_act")
        self.fc2 = nn.Linear(block["intermediate_size"], config.hidden_size)

    def forward(self, hidden_states):
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class SNPViTGatedMLP(nn.Module):
    """Two linear layers, the activation of the first times the second, and a third (SwiGLU)."""

    def __init__(self, config, block):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, block["intermediate_size"])
        self.up_proj = nn.Linear(config.hidden_size, block["intermediate_size"])
        self.activation_fn = build_activation(config, "hidden_act")
        self.down_proj = nn.Linear(block["intermediate_size"], config.hidden_size)

    def forward(self, hidden_states):
        return self.down_proj(self.activation_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class SNPViTDropPath(nn.Module):
    """In training, drops the whole input of a share `rate` of the images and scales that of the others up for it."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states):
        if not self.training or self.rate == 0.0:
            return hidden_states
        kept = F.dropout(hidden_states.new_ones(hidden_states.shape[0], 1, 1), p=self.rate)
        return hidden_states * kept


class SNPViTLayer(GradientCheckpointingLayer):
    """One block: attention and MLP, each behind a norm and added to the residual stream.

    Between the two tokens may merge. `token_sizes` says how many tokens each stands for, and `places` which of them
    holds each token of the first block; both are `None` as long as nothing was merged.
    """

    def __init__(self, config, block, drop_path_rate):
        super().__init__()
        self.layernorm_before = build_norm(config)
        self.attention = SNPViTAttention(config, block)
        self.layernorm_after = build_norm(config)
        self.mlp = SNPViTGatedMLP(config, block) if config.use_gated_mlp else SNPViTMLP(config, block)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = SNPViTDropPath(drop_path_rate)
        num_merged = block.get("merged_tokens", 0)
        self.token_merging = SNPViTTokenMerging(num_merged, config.num_extra_tokens) if num_merged else None

    def forward(
        self,
        hidden_states,
        output_attentions=False,
        positions=None,
        relative_positions=None,
        token_sizes=None,
        places=None,
    ):
        attention_output, probabilities, keys = self.attention(
            self.layernorm_before(hidden_states), output_attentions, positions, relative_positions, token_sizes
        )
        hidden_states = hidden_states + self.drop_path(self.dropout(attention_output))
        if self.token_merging is not None:
            if token_sizes is None:
                token_sizes = hidden_states.new_ones(hidden_states.shape[:2])
            hidden_states, token_sizes, new_places = self.token_merging(hidden_states, keys, token_sizes)
            places = new_places if places is None else new_places.gather(1, places)
        mlp_output = self.mlp(self.layernorm_after(hidden_states))
        hidden_states = hidden_states + self.drop_path(self.dropout(mlp_output))
        return hidden_states, probabilities, token_sizes, places


class SNPViTPooler(nn.Module):
    """A linear layer and its activation on the class token."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size)
        self.activation = build_activation(config, "pooler_act")

    def forward(self, hidden_states):
        return self.activation(self.dense(hidden_states[:, 0]))


class SNPViTAttentionPooler(nn.Module):
    """A learned query attends to all tokens, and an MLP behind a norm is added to what it gets: one vector per image.

    Its own sizes are not those of the residual stream.
    """

    def __init__(self, config):
        super().__init__()
        size = config.pooler_output_size
        self.num_attention_heads = config.pooler_num_attention_heads
        self.head_dim = size // self.num_attention_heads
        self.probe = nn.Parameter(torch.zeros(1, 1, size))
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(config.hidden_size, size)
        self.v_proj = nn.Linear(config.hidden_size, size)
        self.o_proj = nn.Linear(size, size)
        self.layernorm = build_norm(config, size)
        self.fc1 = nn.Linear(size, config.pooler_intermediate_size)
        self.activation_fn = build_activation(config, "pooler_act")
        self.fc2 = nn.Linear(config.pooler_intermediate_size, size)

    def _split_heads(self, states):
        return states.unflatten(-1, (self.num_attention_heads, self.head_dim)).transpose(1, 2)

    def forward(self, hidden_states):
        query = self._split_heads(self.q_proj(self.probe)).expand(hidden_states.shape[0], -1, -1, -1)
        key, value = (self._split_heads(layer(hidden_states)) for layer in (self.k_proj, self.v_proj))
        context, _ = eager_attention(query, key, value, self.head_dim**-0.5, 0.0)
        pooled = self.o_proj(context.transpose(1, 2).flatten(2))
        return (pooled + self.fc2(self.activation_fn(self.fc1(self.layernorm(pooled)))))[:, 0]


POOLERS = {"dense": SNPViTPooler, "attention": SNPViTAttentionPooler}


class SNPViTPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation for all models of this file."""

    config_class = SNPViTConfig
    base_model_prefix = "snp_vit"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # a Trainer would take `**kwargs` for it
    supports_gradient_checkpointing = True
    _no_split_modules = ["SNPViTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _supports_attention_backend = True

    @classmethod
    def _can_set_attn_implementation(cls):
        # Transformers searches this file for the call of its own models, which 4.57 and 5 write in different ways.
        return True

    def _init_weights(self, module):
        # Only `nn.init`: transformers 5 guards those functions so that loaded weights are not overwritten.
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SNPViTEmbeddings):
            for name in ("position_embeddings", "cls_token", "distillation_token", "register_tokens"):
                if getattr(module, name) is not None:
                    nn.init.trunc_normal_(getattr(module, name), mean=0.0, std=std)
        elif isinstance(module, SNPViTAttentionPooler):
            nn.init.trunc_normal_(module.probe, mean=0.0, std=std)


@dataclass
class SNPViTModelOutput(BaseModelOutputWithPooling):
    r"""
    [`~transformers.modeling_outputs.BaseModelOutputWithPooling`] that has `image_embeds`, `[batch, projection_size]`,
    in place of the pooler's output when the model has a projection (CLIP).
    """

    image_embeds: torch.FloatTensor | None = None


class SNPViTModel(SNPViTPreTrainedModel):
    """The network up to the final norm, and the pooler and a projection of what it gives when the config has them.
    Backbones may do without all three.

    Where blocks merge tokens, all outputs are of all tokens still: each has the state of the group that it went into.
    """

    def __init__(self, config, add_final_norm=True, add_pooling_layer=True):
        super().__init__(config)
        self.embeddings = SNPViTEmbeddings(config)
        self.rotary_positions = None if config.rope_theta is None else SNPViTRotaryPositions(config)
        self.relative_positions = SNPViTRelativePositions(config) if config.use_relative_position_bias else None
        self.pre_layernorm = build_norm(config, config.embedding_size) if config.use_pre_layernorm else None
        self.reduction = None
        if config.embedding_size is not None:
            self.reduction = nn.Linear(config.embedding_size, config.hidden_size, bias=False)
        last = max(len(config.block_configs) - 1, 1)
        self.layers = nn.ModuleList(
            SNPViTLayer(config, block, config.drop_path_rate * index / last)
            for index, block in enumerate(config.block_configs)
        )
        self.layernorm = None
        if add_final_norm:
            self.layernorm = build_norm(config) if config.use_final_layernorm else nn.Identity()
        self.pooler = self.visual_projection = None
        if add_pooling_layer and config.use_pooler and config.pooler_type in POOLERS:
            self.pooler = POOLERS[config.pooler_type](config)
        if add_pooling_layer and config.projection_size is not None:
            self.visual_projection = nn.Linear(
                config.pooler_output_size, config.projection_size, bias=config.projection_bias
            )
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.patch_embeddings

    def encode(self, pixel_values, interpolate_pos_encoding=None, output_attentions=False, output_hidden_states=False):
        """The residual stream behind the last block, the places of all tokens in it (`None` if none were merged), and
        if asked for that after the embeddings and after every block and the attention probabilities of every block, as
        tuples; these two are of all tokens.
        """
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding)
        if self.pre_layernorm is not None:
            hidden_states = self.pre_layernorm(hidden_states)
        if self.reduction is not None:
            hidden_states = self.reduction(hidden_states)
        positions = None if self.rotary_positions is None else self.rotary_positions(pixel_values)
        relative_positions = None if self.relative_positions is None else self.relative_positions(pixel_values)
        all_hidden_states = (hidden_states,) if output_hidden_states else None
        all_attentions = () if output_attentions else None
        token_sizes = places = None
        for layer in self.layers:
            sizes_before, places_before = token_sizes, places
            hidden_states, attentions, token_sizes, places = layer(
                hidden_states, output_attentions, positions, relative_positions, token_sizes, places
            )
            if output_hidden_states:
                all_hidden_states += (hidden_states if places is None else gather_tokens(hidden_states, places),)
            if output_attentions:
                if places_before is not None:
                    attentions = unmerge_attentions(attentions, sizes_before, places_before)
                all_attentions += (attentions,)
        return hidden_states, places, all_hidden_states, all_attentions

    def mean_of_patches(self, last_hidden_state):
        """From `[batch, tokens, hidden_size]` to `[batch, hidden_size]`, without the tokens before the patches."""
        return last_hidden_state[:, self.embeddings.num_extra_tokens :].mean(dim=1)

    def mean_of_class_tokens(self, last_hidden_state):
        """From `[batch, tokens, hidden_size]` to `[batch, hidden_size]`: of class and distillation token."""
        return last_hidden_state[:, :2].mean(dim=1)

    def norm_pooled(self, pooled):
        """The final norm over `[batch, hidden_size]` where it stands behind the pooling."""
        return self.layernorm(pooled.unsqueeze(1)).squeeze(1) if self.config.norm_after_pooling else pooled

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        interpolate_pos_encoding=None,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `[batch, num_channels, height, width]`):
                Images from the image processor.
            interpolate_pos_encoding (`bool`, *optional*):
                Whether to interpolate the position embeddings for images of another size than the configured one.
                Defaults to what the config says.
            output_attentions (`bool`, *optional*):
                Whether to return the attention probabilities of every block, `[batch, heads, tokens, tokens]`.
                Attention then runs without the fused kernel.
            output_hidden_states (`bool`, *optional*):
                Whether to return the residual stream after the embeddings and after every block,
                `[batch, tokens, hidden_size]`.
            kwargs:
                Further arguments are not read, as in transformers.

        Returns:
            [`SNPViTModelOutput`]

        Raises:
            ValueError: If there is a mask among the arguments, which transformers would apply, or if the images have
                another size than the configured one and are not to be interpolated for.
        """
        refuse_masks(kwargs)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        hidden_states, places, all_hidden_states, attentions = self.encode(
            pixel_values, interpolate_pos_encoding, output_attentions, output_hidden_states
        )
        is_normed = self.layernorm is not None and not self.config.norm_after_pooling
        last_hidden_state = self.layernorm(hidden_states) if is_normed else hidden_states
        if places is not None:
            last_hidden_state = gather_tokens(last_hidden_state, places)
        pooler_output = None
        if self.pooler is not None:
            pooler_output = self.pooler(last_hidden_state)
        elif self.config.use_pooler and self.config.pooler_type == "cls":
            pooler_output = self.norm_pooled(last_hidden_state[:, 0])
        elif self.config.use_pooler and self.config.pooler_type == "cls_distillation":
            pooler_output = self.norm_pooled(self.mean_of_class_tokens(last_hidden_state))
        elif self.config.use_pooler:
            pooler_output = self.norm_pooled(self.mean_of_patches(last_hidden_state))
        image_embeds = None
        if self.visual_projection is not None:
            image_embeds, pooler_output = self.visual_projection(pooler_output), None
        return SNPViTModelOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=pooler_output,
            hidden_states=all_hidden_states,
            attentions=attentions,
            image_embeds=image_embeds,
        )


@dataclass
class SNPViTForImageClassificationOutput(ImageClassifierOutput):
    r"""
    [`~transformers.modeling_outputs.ImageClassifierOutput`] that also names the logits of both heads when there are
    two (DeiT with distillation): `logits` is then the mean of `cls_logits` and `distillation_logits`, each
    `[batch, num_labels]`.
    """

    cls_logits: torch.FloatTensor | None = None
    distillation_logits: torch.FloatTensor | None = None


class SNPViTForImageClassification(SNPViTPreTrainedModel):
    """The network with a linear classifier on what `pool` gives, and a second one on the distillation token (DeiT)."""

    accepts_loss_kwargs = True  # tells a Trainer of `num_items_in_batch`

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.snp_vit = SNPViTModel(config)
        num_pooled = 2 if config.classifier_pooling == "cls_mean" else 1
        self.classifier = self._build_classifier(num_pooled * config.hidden_size)
        self.distillation_classifier = None
        if config.use_distillation_head:
            self.distillation_classifier = self._build_classifier(config.hidden_size)
        self.post_init()

    def _build_classifier(self, in_features):
        return nn.Linear(in_features, self.num_labels) if self.num_labels > 0 else nn.Identity()

    def pool(self, last_hidden_state):
        """What the classifier reads of `[batch, tokens, hidden_size]`: one vector per image."""
        return self.snp_vit.norm_pooled(self._pool_tokens(last_hidden_state))

    def _pool_tokens(self, last_hidden_state):
        if self.config.classifier_pooling == "cls":
            return last_hidden_state[:, 0]
        if self.config.classifier_pooling == "cls_distillation":
            return self.snp_vit.mean_of_class_tokens(last_hidden_state)
        mean = self.snp_vit.mean_of_patches(last_hidden_state)
        if self.config.classifier_pooling == "mean":
            return mean
        return torch.cat((last_hidden_state[:, 0], mean), dim=1)

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        labels=None,
        interpolate_pos_encoding=None,
        output_attentions=None,
        output_hidden_states=None,
        num_items_in_batch=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values, interpolate_pos_encoding, output_attentions, output_hidden_states, kwargs:
                See [`SNPViTModel.forward`].
            labels (`torch.Tensor` of shape `[batch]`, *optional*):
                Class indices; with them the output has a `loss`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                What the sum of the losses is divided by, if not by the size of this batch: a Trainer that accumulates
                gradients passes the number of images of all batches of a step.

        Returns:
            [`SNPViTForImageClassificationOutput`]
        """
        outputs = self.snp_vit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.pool(outputs.last_hidden_state))
        cls_logits = distillation_logits = None
        if self.distillation_classifier is not None:
            cls_logits = logits
            distillation_logits = self.distillation_classifier(outputs.last_hidden_state[:, 1])
            logits = (cls_logits + distillation_logits) / 2
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, num_items_in_batch=num_items_in_batch)

        return SNPViTForImageClassificationOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
        )


class SNPViTBackbone(BackboneMixin, SNPViTPreTrainedModel):
    """The network as a backbone: feature maps of the stages in `config.out_features`.

    Its stages are the embeddings and the blocks of the dense network: where one was dropped, its stage ends where the
    stage before it does.
    """

    def __init__(self, config):
        super().__init__(config)
        if config.out_features is None:
            config.out_indices = None  # the last stage
        if hasattr(self, "_init_backbone"):  # transformers 4.57
            self._init_backbone(config)
        self.num_features = [config.hidden_size] * len(config.stage_names)
        self.snp_vit = SNPViTModel(config, add_final_norm=config.apply_layernorm, add_pooling_layer=False)
        self.post_init()

    def _feature_map(self, hidden_states, grid):
        if self.snp_vit.layernorm is not None:
            hidden_states = self.snp_vit.layernorm(hidden_states)
        if not self.config.reshape_hidden_states:
            return hidden_states
        patches = hidden_states[:, self.snp_vit.embeddings.num_extra_tokens :]
        return patches.transpose(1, 2).unflatten(2, grid).contiguous()

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        interpolate_pos_encoding=None,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values, interpolate_pos_encoding, output_attentions, kwargs:
                See [`SNPViTModel.forward`].
            output_hidden_states (`bool`, *optional*):
                Whether to return the residual stream at the end of every stage, `[batch, tokens, hidden_size]`.

        Returns:
            [`~transformers.modeling_outputs.BackboneOutput`] with `feature_maps`, each
            `[batch, hidden_size, height, width]`, or `[batch, tokens, hidden_size]` if the config says so.
        """
        refuse_masks(kwargs)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        _, _, behind_blocks, attentions = self.snp_vit.encode(
            pixel_values, interpolate_pos_encoding, output_attentions, output_hidden_states=True
        )
        depths = self.config.stage_depths or [1] * len(self.snp_vit.layers)
        hidden_states = tuple(behind_blocks[sum(depths[:stage])] for stage in range(len(self.stage_names)))
        grid = self.config.grid_of(pixel_values.shape[2:])
        return BackboneOutput(
            feature_maps=tuple(
                self._feature_map(states, grid)
                for name, states in zip(self.stage_names, hidden_states, strict=True)
                if name in self.out_features
            ),
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=attentions,
        )


__all__ = ["SNPViTBackbone", "SNPViTForImageClassification", "SNPViTModel", "SNPViTPreTrainedModel"]

"""A Swin Transformer whose every block has its own sizes and every stage its own width.

This file is copied into every saved checkpoint. It must import nothing but torch, transformers and its configuration,
and must load under transformers 4.57 and 5.x.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_snp_swin import SNPSwinConfig, check_activation


try:
    from transformers.backbone_utils import BackboneMixin
except ImportError:  # transformers 4.57
    from transformers.utils.backbone_utils import BackboneMixin


# The largest length of the queries in a cosine attention, as its logarithm.
LARGEST_LOGIT_SCALE = math.log(100.0)


def _pair(size):
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def _to_map(hidden_states, grid):
    """Tokens `[batch, height * width, channels]` as a map `[batch, channels, height, width]`."""
    return hidden_states.transpose(1, 2).unflatten(2, grid)


def build_activation(config, field):
    """The activation that `config` names in `field`, which may have changed since the config was made."""
    check_activation(field, getattr(config, field))
    return ACT2FN[getattr(config, field)]


def refuse_masks(arguments):
    """Lets keyword arguments pass that nothing here reads, as transformers does, but none that it would apply."""
    masks = [name for name in ("attention_mask", "bool_masked_pos", "head_mask") if arguments.get(name) is not None]
    if masks:
        raise ValueError(f"This architecture applies no masks, but was given {', '.join(masks)}. Leave them out.")


class Windows(NamedTuple):
    """How the tokens of a stage fall into attention windows.

    `tokens` `[windows * area]` names the token at every place of every window, with the number of tokens for a place
    in the padding; `places` `[tokens]` is the way back. `mask` `[windows, 1, area, area]` is added to the attention
    scores of shifted windows, so that tokens from opposite borders do not see each other. `bias_index`
    `[area, area]` names the row of the relative position bias table for every pair of places.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor | None
    bias_index: torch.Tensor


def build_windows(grid, size, shift, table_size, device=None):
    """The [`Windows`] of `size` x `size` tokens on a grid of `height` x `width` tokens.

    The grid is padded at the bottom and on the right to a multiple of `size` and then rolled up and to the left by
    `shift` tokens. `table_size` is the window size that the bias table was made for; a smaller `size` reads the part
    of the table with the offsets that occur.
    """
    height, width = grid
    num_rows, num_columns = -(-height // size), -(-width // size)

    def lay_out(of_rows, of_columns):
        """Makes `[rows, size]` and `[columns, size]` broadcast to windows `[rows, columns, size, size]`."""
        return of_rows[:, None, :, None], of_columns[None, :, None, :]

    # The token at every place.
    axes = [torch.arange(count * size, device=device).view(count, size) for count in (num_rows, num_columns)]
    rows, columns = lay_out(*((axis + shift) % axis.numel() for axis in axes))
    tokens = torch.where((rows < height) & (columns < width), rows * width + columns, height * width)

    # The place of every token.
    rows = (torch.arange(height, device=device)[:, None] - shift) % (num_rows * size)
    columns = (torch.arange(width, device=device) - shift) % (num_columns * size)
    window = rows // size * num_columns + columns // size
    places = (window * size + rows % size) * size + columns % size

    mask = None
    if shift > 0:
        # The rows and columns that the roll brought to the other side.
        rows, columns = lay_out(*(axis + shift >= axis.numel() for axis in axes))
        sides = (rows * 2 + columns).view(-1, size * size)
        mask = (sides[:, None, :, None] != sides[:, None, None, :]) * -100.0

    offsets = torch.arange(size, device=device)
    offsets = offsets[:, None] - offsets + table_size - 1
    bias_index = offsets[:, None, :, None] * (2 * table_size - 1) + offsets[None, :, None, :]
    bias_index = bias_index.reshape(size * size, size * size)
    return Windows(tokens.flatten(), places.flatten(), mask, bias_index)


class SNPSwinWindows(nn.Module):
    """The [`Windows`] of one shift in one stage, ready for the configured image size and built for any other."""

    def __init__(self, grid, window_size, shift_size, always_partition):
        super().__init__()
        self.grid = grid
        self.window_size = window_size
        self.shift_size = shift_size
        self.always_partition = always_partition
        for name, tensor in self.build(grid)._asdict().items():
            self.register_buffer(name, tensor, persistent=False)

    def build(self, grid, device=None):
        size, shift = self.window_size, self.shift_size
        if not self.always_partition and min(grid) <= size:
            size, shift = min(grid), 0  # one row of windows: nothing to shift them over
        return build_windows(grid, size, shift, self.window_size, device)

    def refill(self):
        """Writes the buffers anew: loading under transformers 5 leaves them without values."""
        for name, tensor in self.build(self.grid)._asdict().items():
            if tensor is not None:
                getattr(self, name).copy_(tensor)

    def forward(self, grid):
        if grid == self.grid:
            return Windows(self.tokens, self.places, self.mask, self.bias_index)
        return self.build(grid, self.tokens.device)


class SNPSwinPatchEmbeddings(nn.Module):
    """Cuts images `[batch, channels, height, width]` into patches and embeds them: `[batch, patches, size]`.

    Images whose size is no multiple of the patch size are padded with zeros at the bottom and on the right. Returns
    the patches and the grid `(height, width)` that they form.
    """

    def __init__(self, config, size):
        super().__init__()
        self.patch_size = _pair(config.patch_size)
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(config.num_channels, size, kernel_size=self.patch_size, stride=self.patch_size)

    def forward(self, pixel_values):
        _, num_channels, height, width = pixel_values.shape
        if num_channels != self.num_channels:
            raise ValueError(f"The images have {num_channels} channels; the model reads {self.num_channels}.")
        padding = (0, -width % self.patch_size[1], 0, -height % self.patch_size[0])
        patches = self.projection(F.pad(pixel_values, padding) if any(padding) else pixel_values)
        return patches.flatten(2).transpose(1, 2), tuple(patches.shape[2:])


class SNPSwinEmbeddings(nn.Module):
    """Patches behind a norm, with position embeddings when the config has them: the first residual stream.

    A pruned width cannot pass the norm; then `reduction` takes the patches to the residual stream.
    """

    def __init__(self, config):
        super().__init__()
        hidden_size = config.hidden_sizes[0]
        patch_embedding_size = config.patch_embedding_size or hidden_size
        self.patch_embeddings = SNPSwinPatchEmbeddings(config, patch_embedding_size)
        self.norm = nn.LayerNorm(patch_embedding_size)
        self.reduction = None if config.patch_embedding_size is None else nn.Linear(patch_embedding_size, hidden_size)
        image_size, patch_size = _pair(config.image_size), _pair(config.patch_size)
        self.position_grid = (image_size[0] // patch_size[0], image_size[1] // patch_size[1])
        self.position_embeddings = None
        if config.use_absolute_embeddings:
            num_positions = self.position_grid[0] * self.position_grid[1]
            self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def interpolate_pos_encoding(self, grid):
        """The position embeddings for a grid of `height` x `width` patches, by bicubic interpolation."""
        positions = _to_map(self.position_embeddings, self.position_grid)
        positions = F.interpolate(positions, size=grid, mode="bicubic", align_corners=False)
        return positions.flatten(2).transpose(1, 2)

    def forward(self, pixel_values, interpolate_pos_encoding=False):
        patches, grid = self.patch_embeddings(pixel_values)
        hidden_states = self.norm(patches)
        if self.reduction is not None:
            hidden_states = self.reduction(hidden_states)
        if self.position_embeddings is not None:
            if grid == self.position_grid:
                hidden_states = hidden_states + self.position_embeddings
            elif interpolate_pos_encoding:
                hidden_states = hidden_states + self.interpolate_pos_encoding(grid)
            else:
                raise ValueError(
                    f"The images have {grid[0]}x{grid[1]} patches; the model has position embeddings for "
                    f"{self.position_grid[0]}x{self.position_grid[1]}. Resize the images or pass "
                    "interpolate_pos_encoding=True."
                )
        return self.dropout(hidden_states), grid


def eager_attention(query, key, value, mask, scale, dropout):
    """Plain attention: `[windows, heads, area, v_head_dim]` and the probabilities `[windows, heads, area, area]`."""
    probabilities = torch.matmul(query, key.transpose(2, 3)) * scale + mask
    probabilities = F.softmax(probabilities, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(F.dropout(probabilities, p=dropout), value), probabilities


class SNPSwinUnitLength(nn.Module):
    """Brings the queries or keys `[windows, area, heads * qk_head_dim]` of every head to one length (Swin V2).

    That is 1 for keys, and a learned length per head for queries. A module, so that what attention reads can be
    observed.
    """

    def __init__(self, num_attention_heads, has_scale):
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.logit_scale = nn.Parameter(torch.zeros(num_attention_heads, 1)) if has_scale else None

    def forward(self, hidden_states):
        hidden_states = F.normalize(hidden_states.unflatten(-1, (self.num_attention_heads, -1)), dim=-1)
        if self.logit_scale is not None:
            hidden_states = hidden_states * self.logit_scale.clamp(max=LARGEST_LOGIT_SCALE).exp()
        return hidden_states.flatten(-2)


class SNPSwinAttention(nn.Module):
    """Self-attention within windows, whose queries and keys may be narrower or wider than its values."""

    # Read by the attention functions of transformers.
    is_causal = False

    def __init__(self, config, hidden_size, block, window_size):
        super().__init__()
        self.config = config
        self.num_attention_heads = block["num_attention_heads"]
        self.qk_head_dim = block["qk_head_dim"]
        self.v_head_dim = block["v_head_dim"]
        self.scaling = block["attention_scale"]
        self.attention_dropout = config.attention_probs_dropout_prob
        qk_size = self.num_attention_heads * self.qk_head_dim
        v_size = self.num_attention_heads * self.v_head_dim
        self.q_proj = nn.Linear(hidden_size, qk_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden_size, qk_size, bias=config.qkv_bias and config.swin_version == 1)
        self.v_proj = nn.Linear(hidden_size, v_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(v_size, hidden_size)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, self.num_attention_heads)
        )
        self.query_norm = self.key_norm = None
        if config.swin_version == 2:
            self.query_norm = SNPSwinUnitLength(self.num_attention_heads, has_scale=True)
            self.key_norm = SNPSwinUnitLength(self.num_attention_heads, has_scale=False)

    def attention_mask(self, windows, batch_size):
        """What is added to the scores: `[1, heads, area, area]`, or `[batch * windows, …]` for shifted windows."""
        bias = self.relative_position_bias_table.t().index_select(1, windows.bias_index.flatten())
        bias = bias.view(1, self.num_attention_heads, *windows.bias_index.shape)
        if windows.mask is None:
            return bias
        # The mask of a Swin V2 is added twice in transformers, on which the checkpoints there were tested.
        mask = windows.mask if self.query_norm is None else 2 * windows.mask
        return (bias + mask).expand(batch_size, -1, -1, -1, -1).flatten(0, 1)

    def forward(self, hidden_states, windows, output_attentions=False):
        batch_size, num_tokens, _ = hidden_states.shape
        area = windows.bias_index.shape[0]
        num_places = windows.tokens.shape[0]
        if num_places > num_tokens:
            hidden_states = F.pad(hidden_states, (0, 0, 0, 1))  # the token that stands for the padding
        # One gather shifts, pads and cuts; on CPU it takes a third of the time of a roll and a transposed copy.
        hidden_states = hidden_states.index_select(1, windows.tokens).view(-1, area, hidden_states.shape[-1])

        qk_shape = (-1, area, self.num_attention_heads, self.qk_head_dim)
        v_shape = (-1, area, self.num_attention_heads, self.v_head_dim)
        query, key = self.q_proj(hidden_states), self.k_proj(hidden_states)
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key, value = query.view(qk_shape), key.view(qk_shape), self.v_proj(hidden_states).view(v_shape)
        mask = self.attention_mask(windows, batch_size).to(query.dtype)
        dropout = self.attention_dropout if self.training else 0.0

        implementation = self.config._attn_implementation
        if implementation == "eager" or output_attentions:
            query, key, value = (states.transpose(1, 2) for states in (query, key, value))
            context, probabilities = eager_attention(query, key, value, mask, self.scaling, dropout)
            context = context.transpose(1, 2)
        else:
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
                self, query, key, value, mask, dropout=dropout, scaling=self.scaling
            )
            context = context[..., : self.v_head_dim]
        context = context.reshape(batch_size, num_places, -1).index_select(1, windows.places)
        return self.o_proj(context), probabilities


class SNPSwinMLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config, hidden_size, block):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, block["intermediate_size"])
        self.activation_fn = build_activation(config, "hidden_act")
        self.fc2 = nn.Linear(block["intermediate_size"], hidden_size)

    def forward(self, hidden_states):
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class SNPSwinDropPath(nn.Module):
    """In training, drops the whole input of a share `rate` of the images and scales that of the others up for it."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states):
        if not self.training or self.rate == 0.0:
            return hidden_states
        kept = F.dropout(hidden_states.new_ones(hidden_states.shape[0], 1, 1), p=self.rate)
        return hidden_states * kept


class SNPSwinLayer(GradientCheckpointingLayer):
    """One block: attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config, hidden_size, block, window_size, drop_path_rate):
        super().__init__()
        self.shift_size = block["shift_size"]
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = SNPSwinAttention(config, hidden_size, block, window_size)
        self.drop_path = SNPSwinDropPath(drop_path_rate)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = SNPSwinMLP(config, hidden_size, block)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states, windows, output_attentions=False):
        attention_output, probabilities = self.attention(
            self.layernorm_before(hidden_states), windows, output_attentions
        )
        hidden_states = hidden_states + self.drop_path(self.dropout(attention_output))
        hidden_states = hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states)))
        return hidden_states, probabilities


class SNPSwinPostNormLayer(SNPSwinLayer):
    """One block of a Swin V2: attention and MLP read the residual stream as it is, and a norm is behind each.

    The names are those of the checkpoints: `layernorm_before` is the norm of the attention.
    """

    def __init__(self, config, hidden_size, block, window_size, drop_path_rate):
        super().__init__(config, hidden_size, block, window_size, drop_path_rate)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden_states, windows, output_attentions=False):
        attention_output, probabilities = self.attention(hidden_states, windows, output_attentions)
        attention_output = self.layernorm_before(self.attention_dropout(attention_output))
        hidden_states = hidden_states + self.drop_path(attention_output)
        mlp_output = self.layernorm_after(self.dropout(self.mlp(hidden_states)))
        return hidden_states + self.drop_path(mlp_output), probabilities


class SNPSwinPatchMerging(nn.Module):
    """Joins each 2 x 2 tokens and takes them to the next stage's width: `[batch, tokens / 4, next_hidden_size]`.

    The norm is before the linear layer, or in a Swin V2 behind it.
    """

    def __init__(self, hidden_size, next_hidden_size, bias, is_post_norm=False):
        super().__init__()
        self.is_post_norm = is_post_norm
        self.norm = nn.LayerNorm(next_hidden_size if is_post_norm else 4 * hidden_size)
        self.reduction = nn.Linear(4 * hidden_size, next_hidden_size, bias=bias)

    def forward(self, hidden_states, grid):
        height, width = grid
        hidden_states = hidden_states.unflatten(1, grid)
        if height % 2 or width % 2:
            hidden_states = F.pad(hidden_states, (0, 0, 0, width % 2, 0, height % 2))
        # The four tokens column by column, as in the checkpoints.
        hidden_states = hidden_states.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        hidden_states = hidden_states.flatten(3).flatten(1, 2)
        if self.is_post_norm:
            return self.norm(self.reduction(hidden_states))
        return self.reduction(self.norm(hidden_states))


class SNPSwinStage(nn.Module):
    """The blocks of one width and, but for the last stage, the patch merging behind them."""

    def __init__(self, config, stage, grid, drop_path_rates, always_partition):
        super().__init__()
        hidden_size, blocks = config.hidden_sizes[stage], config.block_configs[stage]
        window_size, is_post_norm = config.stage_window_sizes[stage], config.swin_version == 2
        layer_class = SNPSwinPostNormLayer if is_post_norm else SNPSwinLayer
        self.blocks = nn.ModuleList(
            [
                layer_class(config, hidden_size, block, window_size, rate)
                for block, rate in zip(blocks, drop_path_rates, strict=True)
            ]
        )
        self.windows = nn.ModuleDict(
            {
                str(shift): SNPSwinWindows(grid, window_size, shift, always_partition)
                for shift in sorted({block["shift_size"] for block in blocks})
            }
        )
        self.downsample = None
        if stage + 1 < len(config.hidden_sizes):
            next_hidden_size = config.hidden_sizes[stage + 1]
            self.downsample = SNPSwinPatchMerging(hidden_size, next_hidden_size, config.merging_bias, is_post_norm)

    def forward(self, hidden_states, grid, output_attentions=False):
        windows = {shift: shifted_windows(grid) for shift, shifted_windows in self.windows.items()}
        for block in self.blocks:
            hidden_states, probabilities = block(hidden_states, windows[str(block.shift_size)], output_attentions)
        merged = hidden_states if self.downsample is None else self.downsample(hidden_states, grid)
        return hidden_states, merged, probabilities


class SNPSwinPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation for all models of this file."""

    config_class = SNPSwinConfig
    base_model_prefix = "snp_swin"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # a Trainer would take `**kwargs` for it
    supports_gradient_checkpointing = True
    _no_split_modules = ["SNPSwinLayer", "SNPSwinPostNormLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True

    @classmethod
    def _can_set_attn_implementation(cls):
        # Transformers searches this file for the call of its own models, which 4.57 and 5 write in different ways.
        return True

    @torch.no_grad()
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
        elif isinstance(module, SNPSwinEmbeddings) and module.position_embeddings is not None:
            nn.init.trunc_normal_(module.position_embeddings, mean=0.0, std=std)
        elif isinstance(module, SNPSwinAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, mean=0.0, std=std)
        elif isinstance(module, SNPSwinUnitLength) and module.logit_scale is not None:
            nn.init.constant_(module.logit_scale, math.log(10.0))
        elif isinstance(module, SNPSwinWindows):
            module.refill()


class StageOutput(NamedTuple):
    """What a stage gives: tokens `[batch, tokens, hidden_size]` before and behind patch merging, each with its grid,
    and the attention probabilities of its last block.
    """

    hidden_states: torch.Tensor
    grid: tuple[int, int]
    merged: torch.Tensor
    merged_grid: tuple[int, int]
    attentions: torch.Tensor | None


@dataclass
class SNPSwinModelOutput(BaseModelOutputWithPooling):
    r"""
    [`~transformers.modeling_outputs.BaseModelOutputWithPooling`] that also has the hidden states as maps
    `[batch, channels, height, width]`.
    """

    reshaped_hidden_states: tuple[torch.FloatTensor, ...] | None = None


class SNPSwinModel(SNPSwinPreTrainedModel):
    """The network up to the final norm, and the mean over its tokens when the config asks for it.

    With `always_partition` a map that is smaller than a window is padded to one and shifted, as backbones do it;
    without, the window shrinks to the map. Those of a Swin V2 never do.
    """

    def __init__(self, config, always_partition=False):
        super().__init__(config)
        self.embeddings = SNPSwinEmbeddings(config)
        always_partition = always_partition or config.swin_version == 2
        image_size, patch_size = _pair(config.image_size), _pair(config.patch_size)
        grid = (-(-image_size[0] // patch_size[0]), -(-image_size[1] // patch_size[1]))
        num_blocks = sum(config.depths)
        rates = [config.drop_path_rate * index / max(num_blocks - 1, 1) for index in range(num_blocks)]
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            self.stages.append(SNPSwinStage(config, stage, grid, rates[:depth], always_partition))
            rates = rates[depth:]
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.patch_embeddings

    def encode(self, pixel_values, interpolate_pos_encoding=False, output_attentions=False):
        """The residual stream and its grid after the embeddings, and a [`StageOutput`] for every stage."""
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        embeddings, grid = self.embeddings(pixel_values, interpolate_pos_encoding)
        stages, merged, merged_grid = [], embeddings, grid
        for stage in self.stages:
            stage_grid = merged_grid
            hidden_states, merged, attentions = stage(merged, stage_grid, output_attentions)
            if stage.downsample is not None:
                merged_grid = ((stage_grid[0] + 1) // 2, (stage_grid[1] + 1) // 2)
            stages.append(StageOutput(hidden_states, stage_grid, merged, merged_grid, attentions))
        return embeddings, grid, stages

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        interpolate_pos_encoding=False,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `[batch, num_channels, height, width]`):
                Images from the image processor, of any size.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
                Whether to interpolate the position embeddings for images of another size than the configured one.
                Only models with `use_absolute_embeddings` need it.
            output_attentions (`bool`, *optional*):
                Whether to return the attention probabilities of every stage's last block,
                `[batch * windows, heads, area, area]`. Attention then runs without the fused kernel.
            output_hidden_states (`bool`, *optional*):
                Whether to return the residual stream after the embeddings and after every stage with its patch
                merging, as `hidden_states` `[batch, tokens, channels]` and as `reshaped_hidden_states`
                `[batch, channels, height, width]`.
            kwargs:
                Further arguments are not read, as in transformers.

        Returns:
            [`SNPSwinModelOutput`]

        Raises:
            ValueError: If there is a mask among the arguments, which transformers would apply, or if there are
                position embeddings for another size of images and they are not to be interpolated.
        """
        refuse_masks(kwargs)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        embeddings, grid, stages = self.encode(pixel_values, interpolate_pos_encoding, output_attentions)
        last_hidden_state = self.layernorm(stages[-1].merged)
        hidden_states = reshaped_hidden_states = None
        if output_hidden_states:
            hidden_states = (embeddings, *(stage.merged for stage in stages))
            grids = (grid, *(stage.merged_grid for stage in stages))
            reshaped_hidden_states = tuple(map(_to_map, hidden_states, grids))

        return SNPSwinModelOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=last_hidden_state.mean(dim=1) if self.config.use_pooler else None,
            hidden_states=hidden_states,
            attentions=tuple(stage.attentions for stage in stages) if output_attentions else None,
            reshaped_hidden_states=reshaped_hidden_states,
        )


@dataclass
class SNPSwinForImageClassificationOutput(ImageClassifierOutput):
    r"""
    [`~transformers.modeling_outputs.ImageClassifierOutput`] that also has the hidden states as maps
    `[batch, channels, height, width]`.
    """

    reshaped_hidden_states: tuple[torch.FloatTensor, ...] | None = None


class SNPSwinForImageClassification(SNPSwinPreTrainedModel):
    """The network with a linear classifier on the mean of its tokens."""

    accepts_loss_kwargs = True  # tells a Trainer of `num_items_in_batch`

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.snp_swin = SNPSwinModel(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels) if self.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        labels=None,
        interpolate_pos_encoding=False,
        output_attentions=None,
        output_hidden_states=None,
        num_items_in_batch=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values, interpolate_pos_encoding, output_attentions, output_hidden_states, kwargs:
                See [`SNPSwinModel.forward`].
            labels (`torch.Tensor` of shape `[batch]`, *optional*):
                Class indices; with them the output has a `loss`.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                What the sum of the losses is divided by, if not by the size of this batch: a Trainer that accumulates
                gradients passes the number of images of all batches of a step.

        Returns:
            [`SNPSwinForImageClassificationOutput`]
        """
        outputs = self.snp_swin(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(outputs.last_hidden_state.mean(dim=1))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels, logits, self.config, num_items_in_batch=num_items_in_batch)
        return SNPSwinForImageClassificationOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            reshaped_hidden_states=outputs.reshaped_hidden_states,
        )


class SNPSwinBackbone(BackboneMixin, SNPSwinPreTrainedModel):
    """The network as a backbone: feature maps of the stages in `config.out_features`, each behind a norm.

    Those of a Swin V2 are its residual streams as they are.
    """

    def __init__(self, config):
        super().__init__(config)
        if hasattr(self, "_init_backbone"):  # transformers 4.57
            self._init_backbone(config)
        self.num_features = [config.hidden_sizes[0], *config.hidden_sizes]
        self.snp_swin = SNPSwinModel(config, always_partition=True)
        norm_class = nn.Identity if config.swin_version == 2 else nn.LayerNorm
        self.hidden_states_norms = nn.ModuleDict(
            {name: norm_class(channels) for name, channels in zip(self.out_features, self.channels, strict=True)}
        )
        if config.swin_version == 2:
            self.snp_swin.layernorm = nn.Identity()  # backbones do not run it, and those of V2 have none
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values,
        interpolate_pos_encoding=False,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values, interpolate_pos_encoding, output_attentions, kwargs:
                See [`SNPSwinModel.forward`].
            output_hidden_states (`bool`, *optional*):
                Whether to return the residual stream after the embeddings and after every stage, before its patch
                merging, `[batch, channels, height, width]`; of a Swin V2 `[batch, tokens, channels]`.

        Returns:
            [`~transformers.modeling_outputs.BackboneOutput`] with `feature_maps`, each
            `[batch, channels, height, width]`.
        """
        refuse_masks(kwargs)
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states

        embeddings, grid, stages = self.snp_swin.encode(pixel_values, interpolate_pos_encoding, output_attentions)
        hidden_states = (embeddings, *(stage.hidden_states for stage in stages))
        grids = (grid, *(stage.grid for stage in stages))
        feature_maps = tuple(
            _to_map(self.hidden_states_norms[name](states), grid).contiguous()
            for name, states, grid in zip(self.stage_names, hidden_states, grids, strict=True)
            if name in self.out_features
        )
        if self.config.swin_version == 1:
            hidden_states = tuple(map(_to_map, hidden_states, grids))
        return BackboneOutput(
            feature_maps=feature_maps,
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=tuple(stage.attentions for stage in stages) if output_attentions else None,
        )


__all__ = ["SNPSwinBackbone", "SNPSwinForImageClassification", "SNPSwinModel", "SNPSwinPreTrainedModel"]

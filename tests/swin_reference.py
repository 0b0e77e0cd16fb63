"""What a Swin of transformers computes on its way, by hooks on its own modules and windows cut by loops."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


def cut_windows(states, size, shift):
    """A map `[images, height, width, channels]` padded, rolled, cut: `[images * windows, size * size, channels]`."""
    images, height, width, channels = states.shape
    padded = states.new_zeros(images, height + -height % size, width + -width % size, channels)
    padded[:, :height, :width] = states
    padded = torch.roll(padded, (-shift, -shift), (1, 2))
    return torch.stack(
        [
            image[row : row + size, column : column + size].flatten(0, 1)
            for image in padded
            for row in range(0, padded.shape[1], size)
            for column in range(0, padded.shape[2], size)
        ]
    )


@dataclass
class BlockReference:
    """The activations of one block, float64: `[heads, maps, tokens, d]` per attention map, else `[rows, channels]`."""

    query: torch.Tensor
    key: torch.Tensor
    context: torch.Tensor
    mlp: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


@dataclass
class SwinReference:
    """All activations that calibration sums over; norms as they are without scale and shift."""

    blocks: list[BlockReference]
    merging: list[torch.Tensor]
    stem: torch.Tensor
    states: list[torch.Tensor]


def swin_reference(source, pixel_values):
    """Runs a Swin of transformers once, whatever head it has.

    `stem` and `states` are the streams before the first block and behind the blocks of every stage,
    `[images, tokens, channels]`.
    """
    swin = source.base_model
    inputs = _inputs_of_modules(swin, source, pixel_values)
    patch_size = swin.config.patch_size
    grid = [-(-length // patch_size) for length in pixel_values.shape[-2:]]
    stem = inputs["encoder.layers.0.blocks.0.layernorm_before"]
    reference = SwinReference([], [], stem, [])
    for index, stage in enumerate(swin.encoder.layers):
        name = f"encoder.layers.{index}"
        for number, layer in enumerate(stage.blocks):
            reference.blocks.append(_block_reference(f"{name}.blocks.{number}", layer, grid, inputs))
        reference.states.append(inputs[f"{name}.end"])
        if stage.downsample is not None:
            reference.merging.append(_normalise(inputs[f"{name}.downsample.norm"], 1e-5))
            grid = [-(-length // 2) for length in grid]
    return reference


def _inputs_of_modules(swin, source, pixel_values):
    """What every module below `swin` gets, by name; under "….end" what the last block of a stage puts out."""
    inputs, handles = {}, []

    def keep(name, states):
        states = states[0] if isinstance(states, tuple) else states
        inputs[name] = states.double()

    for name, module in swin.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm)):
            handles.append(module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args)))
    for index, stage in enumerate(swin.encoder.layers):
        name = f"encoder.layers.{index}.end"
        handles.append(stage.blocks[-1].register_forward_hook(lambda _, __, output, name=name: keep(name, output)))
    with torch.no_grad():
        source(pixel_values)
    for handle in handles:
        handle.remove()
    return inputs


def _block_reference(name, layer, grid, inputs):
    norm, attention = layer.layernorm_before, layer.attention
    size, shift = layer.window_size, layer.shift_size  # as this forward pass used them
    normed = _normalise(inputs[f"{name}.layernorm_before"], norm.eps)
    read = normed * norm.weight.double() + norm.bias.double()
    windows = cut_windows(read.unflatten(1, grid), size, shift)
    heads = attention.relative_position_bias.relative_position_bias_table.shape[1]

    def by_head(linear):
        bias = None if linear.bias is None else linear.bias.double()
        rows = F.linear(windows, linear.weight.double(), bias).detach()
        return rows.unflatten(-1, (heads, -1)).permute(2, 0, 1, 3)

    # Transformers carries the padding through `o_proj`; what it adds there belongs to no token.
    of_image = cut_windows(torch.ones(len(read), *grid, 1), size, shift).squeeze(-1) > 0
    return BlockReference(
        query=by_head(attention.q_proj),
        key=by_head(attention.k_proj),
        context=inputs[f"{name}.attention.o_proj"].view(*of_image.shape, -1)[of_image],
        mlp=inputs[f"{name}.mlp.fc2"].flatten(0, 1),
        before=normed.flatten(0, 1),
        after=_normalise(inputs[f"{name}.layernorm_after"], layer.layernorm_after.eps).flatten(0, 1),
    )


def _normalise(states, eps):
    return F.layer_norm(states, states.shape[-1:], eps=eps).detach()

"""The parts of a model that pruning touches, by the part that each plays, not by the names of one architecture."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of what a config gives as one number, for squares, or as two."""
    return tuple(size) if isinstance(size, Sequence) else (size, size)


@dataclass(frozen=True)
class Block:
    """One transformer block: the names of its layers in the model, and its sizes.

    Attributes:
        name (`str`): Of its module.
        module (`nn.Module`): The module, which takes the stream first and gives it first.
        stream (`int`): The residual stream that it reads and writes.
        num_maps (`int`): Attention maps per head for one image: 1, or the number of windows.
        map_tokens (`int`): Tokens per attention map.
        num_attention_heads, qk_head_dim, v_head_dim, intermediate_size (`int`): As in `block_configs`.
        merged_tokens (`int`): By how many tokens there are fewer behind its attention; its MLP sees the fewer ones.
        num_patches (`int`): The tokens that reach it of those that may merge.
        query, key, value (`str`): The linear layers from the stream to the heads.
        output (`str`): The linear layer from the heads back to the stream.
        up (`str`): The first layer of the MLP, whose outputs are its neurons.
        down (`str`): The second layer of the MLP, which reads the neurons.
        gate (`str`, *optional*): Of a gated MLP the layer that runs beside `up`; a neuron is the product of both.
        score_modules (`tuple[str, str]`, *optional*): What stands between the layers of queries and keys and the
            scores: the modules that turn them by rotary positions, or bring them to one length (cosine attention).
        rotary_pairs (`str`, *optional*): With rotary positions the buffer `[heads, qk_head_dim / 2]` of the pairs that
            every head has. Neurons `i` and `i + qk_head_dim / 2` of queries and keys are a pair and stay together.
        per_head (`dict[str, int]`): Further weights with one entry per head, each with the dimension of the heads.
        drop_paths (`list[str]`): The modules that leave its branches out in training.
        output_norm, down_norm (`str`, *optional*): In a block with norms behind its branches the norm between
            `output`, or `down`, and the stream.
    """

    name: str
    module: nn.Module
    stream: int
    num_maps: int
    map_tokens: int
    num_attention_heads: int
    qk_head_dim: int
    v_head_dim: int
    intermediate_size: int
    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    gate: str | None = None
    score_modules: tuple[str, str] | None = None
    rotary_pairs: str | None = None
    per_head: dict[str, int] = field(default_factory=dict)
    drop_paths: list[str] = field(default_factory=list)
    merged_tokens: int = 0
    num_patches: int = 0
    output_norm: str | None = None
    down_norm: str | None = None

    @property
    def matching_pairs(self) -> int:
        """Pairs of tokens that merging compares, by keys and states: those of two halves of the patches."""
        if not self.merged_tokens:
            return 0
        return (self.num_patches + 1) // 2 * (self.num_patches // 2)

    @property
    def attention_inputs(self) -> list[str]:
        """The layers that read the stream for the attention."""
        return [self.query, self.key, self.value]

    @property
    def score_inputs(self) -> tuple[str, str]:
        """The modules that put out the queries and the keys of the attention scores, `[batch, tokens, heads * d]`."""
        return self.score_modules or (self.query, self.key)

    @property
    def attention_end(self) -> str:
        """The module whose output the attention adds to the stream."""
        return self.output_norm or self.output

    @property
    def mlp_end(self) -> str:
        """The module whose output the MLP adds to the stream."""
        return self.down_norm or self.down

    @property
    def mlp_inputs(self) -> list[str]:
        """The layers that read the stream for the MLP; a neuron has a row in each."""
        return [self.up] if self.gate is None else [self.gate, self.up]

    @property
    def layers(self) -> list[str]:
        """All linear layers, in the order in which they run."""
        return [*self.attention_inputs, self.output, *self.mlp_inputs, self.down]


@dataclass(frozen=True)
class Tokens:
    """Some of the tokens of an image, each a row for what reads them, or their mean as one row.

    Attributes:
        start (`int`): The first of them.
        stop (`int`, *optional*): The one behind the last; `None` for all that follow.
        averages (`bool`): Whether their mean is read.
    """

    start: int = 0
    stop: int | None = None
    averages: bool = False

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """From all tokens `[batch, tokens, channels]` to the rows that are read, `[batch, rows, channels]`."""
        chosen = states[:, self.start : self.stop]
        return chosen.mean(dim=1, keepdim=True) if self.averages else chosen


@dataclass(frozen=True)
class Norm:
    """A norm with the layers behind it.

    Attributes:
        name (`str`): Of its module.
        readers (`list[str]`): The linear layers that read it; none where only its output counts.
        repeats (`int`): How many tokens of the stream lie side by side in one row of its input (patch merging: 4).
        pads (`bool`): Whether zeros are put beside its output to fill windows.
        reads (`tuple[Tokens, ...]`): What one row of the readers' input is made of: these side by side.
        is_output (`bool`): Whether what it puts out is itself an output of the model, such as a feature map.
        normalizes (`bool`): Whether it is a norm. In its place may be an identity, before layers that read the stream
            as it is.
        pooled (`Tokens`, *optional*): What of the stream it gets in place of all tokens.
        gives_directions (`bool`): Whether of what its readers put out only the direction counts, as of embeddings that
            are compared by their angles.
    """

    name: str
    readers: list[str]
    repeats: int = 1
    pads: bool = False
    reads: tuple[Tokens, ...] = (Tokens(),)
    is_output: bool = False
    normalizes: bool = True
    pooled: Tokens | None = None
    gives_directions: bool = False

    @property
    def chunks(self) -> int:
        """How many vectors of the stream's width lie side by side in one row of the readers' input."""
        return self.repeats * len(self.reads)

    def pool(self, stream: torch.Tensor) -> torch.Tensor:
        """From a stream `[batch, tokens, channels]` to what the norm gets of it."""
        return stream if self.pooled is None else self.pooled.of(stream)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """From its output `[batch, tokens, channels]` to the rows that the readers get, `[batch, rows, inputs]`."""
        parts = [tokens.of(states) for tokens in self.reads]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def read_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """From the gradient at its output to that at the rows that the readers get; shapes as in `read`."""
        parts = []
        for tokens in self.reads:
            chosen = gradient[:, tokens.start : tokens.stop]
            # Each of the tokens has its share of the gradient at their mean.
            parts.append(chosen.sum(dim=1, keepdim=True) if tokens.averages else chosen)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@dataclass(frozen=True)
class Stream:
    """A residual stream: everything that is added into it is pruned with one index set, or one rotation.

    Attributes:
        width (`int`): Its channels.
        writers (`list[str]`): Layers whose outputs are added into it.
        vectors (`list[str]`): Weights that are themselves added into it; their last dimension is the stream's.
        norms (`list[Norm]`): The norms over it.
        scales (`list[str]`): Norms whose outputs are added into it, between a writer and the stream (that behind
            Swin's patch embedding, those behind the branches of a Swin V2).
        readers (`list[str]`): Linear layers that read it without a norm.
        merging (`str`, *optional*): The patch merging that makes the next stream of it.
        reduction (`str`, *optional*): Of a stream whose first writer and vectors stand before its `scales`: the linear
            layer that a method which refits puts behind them, from embeddings of the old width to the new one.
        is_output (`bool`): Whether it is itself an output of the model, without a norm: a budget then keeps it whole,
            since no loss would tell of it.
    """

    width: int
    writers: list[str]
    vectors: list[str]
    norms: list[Norm]
    scales: list[str] = field(default_factory=list)
    reduction: str | None = None
    is_output: bool = False
    readers: list[str] = field(default_factory=list)
    merging: str | None = None


@dataclass(frozen=True)
class Structure:
    """All of a model that pruning touches.

    Attributes:
        blocks (`list[Block]`): In execution order.
        streams (`list[Stream]`): In execution order.
        linear_rows (`dict[str, int]`): For every linear layer and convolution, how often it is applied for one image
            of the configured size.
        further_macs (`int`): Multiply-accumulates for one image outside of the blocks and of these layers; no plan
            changes them.
    """

    blocks: list[Block]
    streams: list[Stream]
    linear_rows: dict[str, int]
    further_macs: int = 0

    @property
    def merges_tokens(self) -> bool:
        """Whether any block merges tokens."""
        return any(block.merged_tokens for block in self.blocks)

"""Reconstruction in sequence: block by block, what the pruned network lacks of the dense stream is regressed.

The closed form of every layer is solved from statistics of the dense network. So errors of the first blocks reach the
later ones unseen. Here the calibration images go through both networks side by side. With `P` the stream of the pruned
network before a layer that writes it, `D'` the dense stream behind that layer, in the basis that is kept, and `C` the
inputs of the layer in the pruned network,

    min over W, b of  E |D' - P - W C - b|^2 + ridge * v * |W - W_0|^2

gives its new weights; `W_0` are those of the closed form, `v` is the mean variance of `C`, and tokens count by what
the outputs make of them ([`optimum_snp.reconstruction.token_weights`]). First comes the output layer of a block's
attention, then, with `P` behind it, the second layer of its MLP. Where a norm is behind a layer, `D' - P` goes through
it first ([`optimum_snp.reconstruction.post_norm`]). What blocks that are dropped would have added falls to the layer
before them. Last come the layers that read the final norm, fitted to what they put out in the dense
network.

Memory: three streams of all images and their copies, or two and the neurons that the pruned block keeps: of each
`12 * tokens * width` bytes, or `4 * tokens * (2 * width + neurons)`; 1.8 MB, or 2.4 MB with half of the neurons, for a
DeiT-Base. With norms behind the layers they are two streams more. They wait on a GPU that has room, or in main memory.
Time: one pass through the dense network and two through the blocks of the pruned one, beside the sums.

Source: our choice (docs/real-model.md).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from tqdm.auto import tqdm

from ..devices import place_with_room, put_back
from ..models import SNPModel
from ..processes import process_state, tensors_of_main_process
from ..structure import Block, Norm, describe
from .groups import Groups
from .post_norm import target_before_norm
from .regression import RegressionSums, ridge_for, solve
from .steps import Step, first, inputs_of, outputs_of, record_steps
from .token_weights import token_weights


# Of one chunk of images: inputs, targets, and how much each row counts.
Rows: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def reconstruct(
    dense: SNPModel,
    pruned: SNPModel,
    kept_blocks: list[int],
    directions: dict[int, torch.Tensor],
    batches: Iterable[torch.Tensor],
) -> None:
    """Refits all that writes the streams of a pruned model, in place, so that they follow those of the dense one.

    Args:
        dense:
            The dense model. It runs in eval mode on Accelerate's device and is put back.
        pruned:
            The pruned model; the same weights on all processes.
        kept_blocks (`list[int]`):
            For every block of `pruned` its position in `dense`.
        directions (`dict[int, torch.Tensor]`):
            For every stream that got narrower, by its position, what is kept of it, `[width, kept]`.
        batches (`Iterable[torch.Tensor]`):
            Pixel values of this process, `[images, channels, height, width]`; the main process has some.
    """
    device = process_state().device
    with put_back(dense), put_back(pruned):
        for model in (dense, pruned):
            model.to(device).eval()  # not in inference mode: weights that moved there could never be trained again
        with torch.inference_mode():
            _Reconstruction(dense, pruned, kept_blocks, directions, device).run(batches)


class _Reconstruction:
    """Both networks, and the streams of this process's images as far as they have come."""

    def __init__(
        self,
        dense: SNPModel,
        pruned: SNPModel,
        kept_blocks: list[int],
        directions: dict[int, torch.Tensor],
        device: torch.device,
    ):
        self.dense, self.pruned, self.device = dense, pruned, device
        self.place = torch.device("cpu")  # where all that waits for a later pass is kept
        self.dense_structure, self.pruned_structure = describe(dense), describe(pruned)
        self.kept_blocks = kept_blocks
        self.directions = {index: kept.to(dense.dtype).to(device) for index, kept in directions.items()}
        self.dense_streams: list[torch.Tensor] = []
        self.pruned_streams: list[torch.Tensor] = []
        self.groups: list[Groups | None] = []  # of the tokens of the pruned streams
        self.token_weights: dict[str, torch.Tensor] = {}
        self.ridge = 0.0

    def run(self, batches: Iterable[torch.Tensor]) -> None:
        """From the embeddings to the layers behind the final norm."""
        self._embed(batches)
        dense_steps = record_steps(self.dense, self.dense_structure)
        progress = tqdm(
            total=len(self.kept_blocks),
            desc="Reconstructing",
            unit="block",
            disable=None if process_state().is_main_process else True,  # None: only on a terminal
        )
        with progress:
            for step in record_steps(self.pruned, self.pruned_structure):
                dense_step = dense_steps.pop(0)
                if step.block is None:
                    self._advance_dense(dense_step)
                    self._advance_pruned(step)
                else:
                    # Blocks that are dropped at the start of a stage are made up for by the first one that stays.
                    while dense_step.block != self.kept_blocks[step.block]:
                        self._advance_dense(dense_step)
                        dense_step = dense_steps.pop(0)
                    dropped = []
                    while dense_steps and self._is_dropped(dense_steps[0]):
                        dropped.append(dense_steps.pop(0))
                    self._refit_block(step, dense_step, dropped)
                    progress.update()
        self._refit_heads()

    def _embed(self, batches: Iterable[torch.Tensor]) -> None:
        """The streams before the first block, and the weights of tokens from the first batch of the main process."""
        weighed = None
        for pixel_values in batches:
            weighed = pixel_values if weighed is None else weighed
            for model, structure, streams in (
                (self.dense, self.dense_structure, self.dense_streams),
                (self.pruned, self.pruned_structure, self.pruned_streams),
            ):
                (stream,) = inputs_of([structure.blocks[0].module], partial(model, pixel_values))
                streams.append(stream.to(self.place))
        self._choose_place()
        self.groups = [None] * len(self.pruned_streams)
        self.ridge = ridge_for(self.pruned_streams)
        self.token_weights = tensors_of_main_process(lambda: token_weights(self.dense, weighed))

    def _choose_place(self) -> None:
        """Keeps the streams on the device if it has room for them and for what a block leaves beside them."""
        size = sum(stream.nbytes for stream in self.dense_streams)
        downs = [self.pruned.get_submodule(block.down) for block in self.pruned_structure.blocks]
        beside = 3 + max(down.in_features / down.out_features for down in downs)  # streams behind layers, and neurons
        self.place = place_with_room(self.device, (2 + beside) * size)
        for streams in (self.dense_streams, self.pruned_streams):
            streams[:] = [stream.to(self.place) for stream in streams]

    def _is_dropped(self, step: Step) -> bool:
        return step.block is not None and step.block not in self.kept_blocks

    def _advance_dense(self, step: Step) -> None:
        for index, stream in enumerate(self.dense_streams):
            self.dense_streams[index] = step(stream.to(self.device))[0].to(self.place)

    def _advance_pruned(self, step: Step) -> None:
        for index in range(len(self.pruned_streams)):
            self._keep_pruned(index, *step(*self._pruned(index)))

    def _keep_pruned(self, index: int, stream: torch.Tensor, groups: Groups | None) -> None:
        self.pruned_streams[index] = stream.to(self.place)
        self.groups[index] = None if groups is None else groups.to(self.place)

    def _pruned(self, index: int) -> tuple[torch.Tensor, Groups | None]:
        """The pruned stream of a chunk as far as it has come, and its groups of tokens."""
        groups = self.groups[index]
        return self.pruned_streams[index].to(self.device), None if groups is None else groups.to(self.device)

    def _refit_block(self, step: Step, dense_step: Step, dropped: list[Step]) -> None:
        """Refits what a block adds, and takes both streams past it, and dense ones past dropped blocks behind it."""
        block, dense_block = self.pruned_structure.blocks[step.block], self.dense_structure.blocks[dense_step.block]
        behind_attention: list[torch.Tensor] = []
        before_norms: dict[str, list[torch.Tensor]] = {dense_block.output: [], dense_block.down: []}
        names = (*before_norms, dense_block.attention_end)
        dense_modules = [*map(self.dense.get_submodule, names), dense_step.module]
        for index, stream in enumerate(self.dense_streams):
            stream = stream.to(self.device)
            *outputs, added, after = outputs_of(dense_modules, partial(dense_step, stream))
            behind_attention.append((stream + added).to(self.place))
            if dense_block.output_norm is not None:
                for of_layer, output in zip(before_norms.values(), outputs, strict=True):
                    of_layer.append(output.to(self.place))
            self.dense_streams[index] = first(after).to(self.place)
        for dropped_step in dropped:
            self._advance_dense(dropped_step)
        output, down = (self.pruned.get_submodule(name) for name in (block.output, block.down))
        mlp_start = self._reads_stream_for_mlp(block)

        def attention_rows(index: int) -> Rows:
            stream, groups = self._pruned(index)
            (context,) = inputs_of([output], partial(step, stream, groups))
            wanted = self._kept(behind_attention[index], block, groups) - stream
            weights = self._weights_of(dense_block.attention_end, groups)
            if dense_block.output_norm is not None:
                dense_output = before_norms[dense_block.output][index]
                wanted, weights = self._before_norm(dense_block.output_norm, dense_output, wanted, weights)
            return context, wanted, weights

        self._refit(output, attention_rows)
        behind_attention.clear()
        all_neurons: list[torch.Tensor] = []

        def mlp_rows(index: int) -> Rows:
            stream, groups = self._pruned(index)
            behind: list[Groups | None] = []
            stream_before, neurons = inputs_of(
                [mlp_start, down],
                lambda: behind.append(step(stream, groups)[1]),
                to_end=bool(block.merged_tokens),  # only then are the groups others behind the block
            )
            groups = behind[0] if behind else groups
            self._keep_pruned(index, stream_before, groups)
            all_neurons.append(neurons.to(self.place))
            wanted = self._kept(self.dense_streams[index], block, groups) - stream_before
            weights = self._weights_of(dense_block.mlp_end, groups)
            if dense_block.down_norm is not None:
                dense_output = before_norms[dense_block.down][index]
                wanted, weights = self._before_norm(dense_block.down_norm, dense_output, wanted, weights)
            return neurons, wanted, weights

        self._refit(down, mlp_rows)
        for index in range(len(self.pruned_streams)):
            added = down(all_neurons.pop(0).to(self.device))
            if block.down_norm is not None:
                added = self.pruned.get_submodule(block.down_norm)(added)
            stream, groups = self._pruned(index)
            self._keep_pruned(index, stream + added, groups)

    def _reads_stream_for_mlp(self, block: Block) -> nn.Module:
        """The module that the stream goes into before the MLP: its norm, or without one its first layer."""
        norms = self.pruned_structure.streams[block.stream].norms
        names = [norm.name for norm in norms if norm.readers == block.mlp_inputs]
        return self.pruned.get_submodule((names or block.mlp_inputs)[0])

    def _before_norm(
        self, norm: str, output: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Targets and weights of the layer before a norm, from those behind the norm and the layer's dense output."""
        target, counts = target_before_norm(self.dense.get_submodule(norm), output.to(self.device), wanted)
        return target, counts * weights

    def _kept(self, stream: torch.Tensor, block: Block, groups: Groups | None) -> torch.Tensor:
        """A dense stream in the basis of the pruned one, and of its tokens."""
        stream, kept = stream.to(self.device), self.directions.get(block.stream)
        stream = stream if kept is None else stream @ kept
        return stream if groups is None else groups.mean(stream)

    def _weights_of(self, dense_layer: str, groups: Groups | None) -> torch.Tensor:
        """The weights of tokens or of their groups, which count as much as their members."""
        weights = self.token_weights[dense_layer].to(self.device)
        if groups is None:
            return weights
        return groups.sum(weights.expand(groups.places.shape).unsqueeze(-1)).squeeze(-1)

    def _refit_heads(self) -> None:
        """Refits the layers that read the final norm of the network, if it has one."""
        of_blocks = {layer for block in self.pruned_structure.blocks for layer in block.layers}
        for behind in self.pruned_structure.streams[-1].norms:
            if getattr(self.pruned.config, "norm_after_pooling", False) and behind.pooled is None:
                continue  # the norm of a classifier gets pooled tokens, which no stream holds
            for name in behind.readers:
                if name not in of_blocks:
                    self._refit_head(behind, name)

    def _refit_head(self, behind: Norm, name: str) -> None:
        """Refits a layer that reads the norm `behind` the last block."""
        dense_norm, norm = (model.get_submodule(behind.name) for model in (self.dense, self.pruned))
        dense_reader = self.dense.get_submodule(name)

        def rows(index: int) -> Rows:
            stream, groups = self._pruned(index)
            stream = stream if groups is None else groups.spread(stream)
            streams = (stream, self.dense_streams[index].to(self.device))
            inputs, dense_inputs = (
                behind.read(module(behind.pool(stream)))
                for module, stream in zip((norm, dense_norm), streams, strict=True)
            )
            targets = dense_reader(dense_inputs)
            return inputs, targets, _by_length(targets) if behind.gives_directions else targets.new_ones(())

        self._refit(self.pruned.get_submodule(name), rows)

    def _refit(
        self,
        layer: nn.Linear,
        rows: Callable[[int], Rows],
    ) -> None:
        """Replaces a layer by the regression of the targets on the inputs that `rows` gives for every chunk."""
        chunks = map(rows, range(len(self.pruned_streams)))
        sums = RegressionSums.of_chunks(chunks, layer.in_features, layer.out_features)

        def solution() -> dict[str, torch.Tensor]:
            weight, bias = solve(sums, layer.weight, layer.bias, self.ridge)
            found = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
            return {name: tensor.to(layer.weight.dtype) for name, tensor in found.items()}

        for name, tensor in tensors_of_main_process(solution).items():
            getattr(layer, name).copy_(tensor)


def _by_length(targets: torch.Tensor) -> torch.Tensor:
    """Weights by which an error counts relative to the length of its target, `[...]` of `[..., outputs]`."""
    return 1 / targets.float().square().sum(dim=-1).clamp_min(torch.finfo(torch.float32).eps)

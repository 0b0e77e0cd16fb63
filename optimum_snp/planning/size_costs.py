"""The cost of a model as a function of the sizes of its parts."""

from collections import defaultdict

import torch
from torch import nn

from ..models import SNPModel
from ..plan.sizes import Part, Sizes, Slot, dense_sizes
from ..structure import Structure, describe


class SizeCosts:
    """Multiply-accumulates or parameters as a polynomial in the sizes of all parts.

    Heads and blocks count as they are in the dense model where sizes do not say otherwise.
    [`optimum_snp.structure.costs`] counts the same on whole models. Not in the polynomial are the few weights that
    the closed-form methods add with a narrower stream: biases, and Swin's small layer behind the patch embedding.

    Attributes:
        sizes (`dict[Slot, int]`): Of the dense model.
        unit (`str`): `"macs"` or `"parameters"`.
    """

    def __init__(self, model: SNPModel, unit: str):
        """Takes the dense model, which may live on the meta device."""
        structure = describe(model)
        self.unit = unit
        self.sizes = dense_sizes(model.config)
        self._whole: Sizes = {}
        for index, block in enumerate(structure.blocks):
            self._whole |= {(Part.HEADS, index): block.num_attention_heads, (Part.BLOCK, index): 1}
        self._terms: dict[tuple[Slot, ...], float] = defaultdict(float)
        self._attention_slopes: dict[int, float] = {}
        inputs, outputs = _inputs_and_outputs(structure)
        self._block_of = {
            f"{block.name}.{name}": index
            for index, block in enumerate(structure.blocks)
            for name, _ in block.module.named_modules()
        }
        for name, rows in structure.linear_rows.items():
            layer = model.get_submodule(name)
            read, written, block = inputs.get(name), outputs.get(name), self._block_of.get(name)
            count = rows if unit == "macs" else 1
            self._add(count * layer.weight.numel(), read, written, block=block)
            if unit == "parameters" and layer.bias is not None:
                self._add(layer.bias.numel(), written, block=block)
        if unit == "macs":
            self._add(structure.further_macs)
            for index, block in enumerate(structure.blocks):
                pairs = block.num_maps * block.map_tokens**2 * block.num_attention_heads
                self._attention_slopes[index] = pairs
                for slot in ((Part.QUERY_KEY, index), (Part.VALUE, index)):
                    self._add(pairs * self.sizes[slot], slot, block=index)
                # Tokens are compared by keys and states.
                keys, states = (Part.QUERY_KEY, index), (Part.WIDTH, block.stream)
                compared_heads = block.matching_pairs * block.num_attention_heads
                self._add(compared_heads * self.sizes[keys], keys, block=index)
                self._add(block.matching_pairs * self.sizes[states], states, block=index)
        else:
            self._add_vectors(model, structure)
        self._terms_of: dict[Slot, list[tuple[list[Slot], float]]] = {slot: [] for slot in self.sizes}
        for slots, amount in self._terms.items():
            for position, slot in enumerate(slots):
                if slot in self._terms_of:
                    self._terms_of[slot].append(([*slots[:position], *slots[position + 1 :]], amount))

    def _add_vectors(self, model: nn.Module, structure: Structure) -> None:
        counted = self.total(self.sizes)
        for index, stream in enumerate(structure.streams):
            width = (Part.WIDTH, index)
            sizes = {vector: model.get_parameter(vector).numel() for vector in stream.vectors}
            for name in (*stream.scales, *(norm.name for norm in stream.norms)):
                sizes[name] = sum(parameter.numel() for parameter in model.get_submodule(name).parameters())
            for name, size in sizes.items():
                self._add(size, width, block=self._block_of.get(name))
                counted += size
        for index, block in enumerate(structure.blocks):
            for name in block.per_head:
                size = model.get_parameter(name).numel()
                self._add(size, (Part.HEADS, index), block=index)
                counted += size
        self._add(sum(parameter.numel() for parameter in model.parameters()) - counted)

    def _add(self, amount: float, *slots: Slot | None, block: int | None = None) -> None:
        """An amount, as counted on the dense model, that grows with the sizes of these parts, in this block."""
        slots = tuple(slot for slot in slots if slot is not None)
        slots += tuple((Part.HEADS, index) for part, index in slots if part in (Part.QUERY_KEY, Part.VALUE))
        slots += ((Part.BLOCK, block),) if block is not None else ()
        for slot in slots:
            amount /= self._size(slot, self.sizes)
        self._terms[slots] += amount

    def _size(self, slot: Slot, sizes: Sizes) -> int:
        return sizes[slot] if slot in sizes else self._whole[slot]

    def total(self, sizes: Sizes) -> float:
        """The cost of a model of these sizes."""
        total = 0.0
        for slots, amount in self._terms.items():
            for slot in slots:
                amount *= self._size(slot, sizes)
            total += amount
        return total

    def curve(self, slot: Slot, candidates: torch.Tensor, sizes: Sizes) -> torch.Tensor:
        """What every candidate size of a part costs, `[candidates]`, when all others stay; but for a constant."""
        slope = 0.0
        for others, amount in self._terms_of[slot]:
            for other in others:
                amount *= self._size(other, sizes)
            slope += amount
        return slope * candidates

    def attention(
        self, block: int, query_key: torch.Tensor, value: torch.Tensor, sizes: Sizes, *, padded: bool
    ) -> torch.Tensor:
        """What candidate sizes of a block's queries/keys and values cost together, `[query_key, value]`.

        Args:
            block (`int`):
                The block.
            query_key, value (`torch.Tensor`):
                The candidates.
            sizes (`dict[Slot, int]`):
                Of all other parts.
            padded (`bool`):
                Whether attention counts as if the smaller of the two sizes were the larger, as fused kernels have it.
        """
        costs = self.curve((Part.QUERY_KEY, block), query_key, sizes).unsqueeze(1)
        costs = costs + self.curve((Part.VALUE, block), value, sizes)
        if padded:
            costs = costs + self._attention_slopes.get(block, 0.0) * (query_key.unsqueeze(1) - value).abs()
        return costs


def _inputs_and_outputs(structure: Structure) -> tuple[dict[str, Slot], dict[str, Slot]]:
    """The part that the inputs, and the outputs, of each layer belong to."""
    inputs, outputs = {}, {}
    for index, stream in enumerate(structure.streams):
        width = (Part.WIDTH, index)
        outputs |= dict.fromkeys(stream.writers, width)
        inputs |= dict.fromkeys(stream.readers, width)
        inputs |= dict.fromkeys((reader for norm in stream.norms for reader in norm.readers), width)
    for index, block in enumerate(structure.blocks):
        outputs[block.query] = outputs[block.key] = (Part.QUERY_KEY, index)
        outputs[block.value] = inputs[block.output] = (Part.VALUE, index)
        outputs |= dict.fromkeys(block.mlp_inputs, (Part.MLP, index))
        inputs[block.down] = (Part.MLP, index)
    return inputs, outputs

"""The plan: which neurons of every block stay. Small, readable, JSON."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from ..configuration import SNPConfig
from ..saved_fields import check_types, read_fields, read_json
from ..structure import block_sizes, query_key_step, resized_config, stream_widths, whole_parts
from .sizes import NEURON_PARTS, Part


FORMAT_VERSION = 1
# In place of kept neurons, where directions are kept that are no neurons.
PROJECTED = "projected"
# No model has more; a file that says so only costs memory.
_MOST_HEADS, _LARGEST_SIZE = 4096, 10**8


@dataclass
class BlockPlan:
    """What stays of one block.

    Attributes:
        before (`dict`):
            The block's entry of `block_configs`.
        after (`dict`, *optional*):
            The same of the pruned model; `None` if the block is dropped, and then nothing else is kept.
        heads (`list[int]`):
            The kept heads, rising.
        query_key, value (`list[list[int]]` or `"projected"`):
            Per kept head the kept neurons, rising, each head counting from 0.
        mlp (`list[int]`):
            The kept MLP neurons, rising.
        stage (`int`):
            The stage of a Swin that the block belongs to; 0 in a ViT.
    """

    before: dict[str, Any]
    after: dict[str, Any] | None
    heads: list[int]
    query_key: list[list[int]] | str
    value: list[list[int]] | str
    mlp: list[int]
    stage: int = 0

    @property
    def merged_tokens(self) -> int:
        """By how many tokens it leaves fewer."""
        return 0 if self.after is None else self.after.get("merged_tokens", 0)


@dataclass
class WidthPlan:
    """What stays of one residual stream.

    Attributes:
        before, after (`int`):
            Its channels.
        kept (`list[int]` or `"projected"`):
            The kept channels, rising.
    """

    before: int
    after: int
    kept: list[int] | str


@dataclass(frozen=True)
class BlockHistory:
    """What all steps together did to one block.

    Attributes:
        before (`dict`):
            Its entry of `block_configs` before the first step.
        after (`dict`, *optional*):
            That after the last step; `None` if it was dropped.
        heads (`list[int]`):
            The heads that are left, by their numbers before the first step.
        stage (`int`):
            Its stage.
    """

    before: dict[str, Any]
    after: dict[str, Any] | None
    heads: list[int]
    stage: int


@dataclass
class PruningPlan:
    """Sizes and kept neurons of every block, with what the model costs before and after.

    Attributes:
        config ([`SNPConfig`]):
            What was asked for.
        widths (`list[WidthPlan]`):
            One entry per residual stream: one for a ViT, one per stage for a Swin.
        blocks (`list[BlockPlan]`):
            One entry per block of the dense model, in execution order.
        macs_before, macs_after (`int`):
            Multiply-accumulates for one image of the configured size.
        parameters_before, parameters_after (`int`):
            Number of weights.
        previous (`PruningPlan`, *optional*):
            The plan that the model was pruned by before this one; `None` for a first step.
        latency (`dict`, *optional*):
            With a `target_latency`: `asked`, `predicted` and `reached`, as shares of the time that the model takes
            before; and `backend`, `batch_size`, `threads` and `machine`, which that was measured with.
        reconstruction_images (`int`, *optional*):
            On how many images the blocks were refitted in sequence when the model was pruned; `None` if they were not.
        reconstruction_copies (`int`, *optional*):
            On how many shifted or mirrored copies of each of them besides; `None` as above.
    """

    config: SNPConfig
    widths: list[WidthPlan]
    blocks: list[BlockPlan]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    previous: "PruningPlan | None" = None
    latency: dict[str, Any] | None = None
    reconstruction_images: int | None = None
    reconstruction_copies: int | None = None

    @property
    def steps(self) -> list["PruningPlan"]:
        """All plans that lead to the pruned model, the first one first, this one last."""
        return [*(self.previous.steps if self.previous else []), self]

    @property
    def history(self) -> list[BlockHistory]:
        """What became of every block of the model before the first step."""
        first = self.steps[0]
        histories = [BlockHistory(block.before, block.after, block.heads, block.stage) for block in first.blocks]
        for step in self.steps[1:]:
            remaining = [index for index, block in enumerate(histories) if block.after is not None]
            for index, block in zip(remaining, step.blocks, strict=True):
                heads = [histories[index].heads[head] for head in block.heads]
                histories[index] = replace(histories[index], after=block.after, heads=heads)
        return histories

    @property
    def kept_blocks(self) -> list[BlockPlan]:
        """The blocks that are not dropped: those of the pruned model."""
        return [block for block in self.blocks if block.after is not None]

    @property
    def heads(self) -> list[list[int]]:
        """Per block the kept heads; none of a block that is dropped."""
        return [block.heads for block in self.blocks]

    def pruned_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config of the pruned model, given that of the dense one.

        Raises:
            ValueError: If the plan was made for a model of other sizes, keeps one neuron of a pair, or makes smaller
                what stays whole.
        """
        if ([width.before for width in self.widths], [block.before for block in self.blocks]) != (
            stream_widths(config),
            block_sizes(config),
        ):
            raise ValueError(
                "This plan was made for a model of other sizes. Make one for this model with SNPPruner.plan."
            )
        if query_key_step(config) == 2:
            self._check_pairs()
        self._check_whole_parts(config)
        return resized_config(
            config,
            [block.after for block in self.blocks],
            [width.after for width in self.widths],
            refits=self.config.refits,
        )

    def _check_whole_parts(self, config: PretrainedConfig) -> None:
        changes = [
            (part, block.before[part.size_name], block.after[part.size_name])
            for block in self.kept_blocks
            for part in NEURON_PARTS
        ]
        changes += [(Part.WIDTH, width.before, width.after) for width in self.widths]
        smaller = {part.share_name for part, before, after in changes if after < before}
        for name, reason in whole_parts(config).items():
            if name in smaller:
                raise ValueError(f"The plan removes what {name} is for, but {reason}.")

    def _check_pairs(self) -> None:
        """With rotary positions, neurons half a head apart stay together."""
        for index, block in enumerate(self.kept_blocks):
            partner = block.before["qk_head_dim"] // 2
            for kept in block.query_key:
                firsts = [neuron for neuron in kept if neuron < partner]
                if kept != [*firsts, *(neuron + partner for neuron in firsts)]:
                    raise ValueError(
                        f"blocks[{index}].query_key keeps {kept} of a head, but rotary positions turn neurons in "
                        f"pairs, {partner} apart: both of a pair stay, or none."
                    )

    def to_dict(self) -> dict[str, Any]:
        """The plan as a dict that JSON can hold."""
        previous = self.previous.to_dict() if self.previous else None
        return {"format_version": FORMAT_VERSION, **asdict(self), "previous": previous}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PruningPlan":
        """Reads what `to_dict` gave.

        Raises:
            ValueError: If the format is another, fields are missing, or kept neurons and sizes do not agree.
        """
        if values.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"format_version of the plan must be {FORMAT_VERSION}, got {values.get('format_version')}."
            )
        added_later = ("previous", "latency", "reconstruction_images", "reconstruction_copies")
        values = {**dict.fromkeys(added_later), **values}
        missing = [option.name for option in fields(cls) if option.name not in values]
        if missing:
            raise ValueError(f"The plan has no {', '.join(missing)}.")
        values = {option.name: values[option.name] for option in fields(cls)}
        values["config"] = SNPConfig.from_dict(values["config"])
        # Plans from before heads could be removed do not list them.
        values["blocks"] = [{"heads": _all_heads(block), **block} for block in values["blocks"]]
        for name, kind in (("widths", WidthPlan), ("blocks", BlockPlan)):
            values[name] = [_read_part(kind, part, f"{name}[{index}]") for index, part in enumerate(values[name])]
        if values["previous"] is not None:
            values["previous"] = cls.from_dict(values["previous"])
        plan = cls(**values)
        plan._check()
        return plan

    def save(self, path: str | Path) -> None:
        """Writes the plan to a JSON file."""
        Path(path).write_text(json.dumps(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file holds something else; the message names it.
        """
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} holds no plan that this version can read: {_told(error)}") from error

    def check_result(self, config: PretrainedConfig) -> None:
        """Tells whether a model is the one that this plan gave.

        Raises:
            ValueError: If its sizes are others.
        """
        # But for the scale of the scores, which a plain checkpoint has in the weights of its queries.
        expected = [_sizes_of(block.after) for block in self.kept_blocks]
        found = [_sizes_of(block) for block in block_sizes(config)]
        if [width.after for width in self.widths] != stream_widths(config) or expected != found:
            raise ValueError("its sizes after pruning are not those of the model")

    def _check(self) -> None:
        check_types(self, "The plan")
        if min(self.macs_before, self.macs_after, self.parameters_before, self.parameters_after) < 1:
            raise ValueError("The plan counts no multiply-accumulates or weights.")
        if not self.widths or not self.blocks:
            raise ValueError("The plan has no widths or no blocks.")
        for index, block in enumerate(self.blocks):
            check_types(block, f"blocks[{index}]")
            if not 0 <= block.stage < len(self.widths):
                raise ValueError(f"blocks[{index}] is of stage {block.stage}, and there are {len(self.widths)}.")
            _check_sizes(f"blocks[{index}].before", block.before)
            if block.after is not None:
                _check_sizes(f"blocks[{index}].after", block.after)
        for index, width in enumerate(self.widths):
            check_types(width, f"widths[{index}]")
        if self.latency is not None:
            _latency_row(**self.latency)  # whose arguments are its fields
        if self.previous is not None:
            self._check_previous(self.previous)
        self._check_kept_parts()

    def _check_previous(self, previous: "PruningPlan") -> None:
        """What a step starts from is what the one before it gave."""
        if ([width.after for width in previous.widths], [block.after for block in previous.kept_blocks]) != (
            [width.before for width in self.widths],
            [block.before for block in self.blocks],
        ):
            raise ValueError("The plan starts from other sizes than the one before it gave.")

    def _check_kept_parts(self) -> None:
        for index, width in enumerate(self.widths):
            self._check_projected(f"widths[{index}]", width.kept, width.before, width.after)
            if width.kept != PROJECTED:
                _check_kept(f"widths[{index}]", width.kept, width.before, width.after)
        for index, block in enumerate(self.blocks):
            self._check_block(f"blocks[{index}]", block)

    def _check_block(self, where: str, block: BlockPlan) -> None:
        before, after = block.before, block.after
        if after is None:
            if block.heads or block.query_key or block.value or block.mlp:
                raise ValueError(f"{where} is dropped, so it keeps nothing; got kept heads or neurons.")
            return
        counts = before["num_attention_heads"], after["num_attention_heads"]
        _check_kept(f"{where}.heads", block.heads, *counts, noun="heads")
        for part, size in (("query_key", "qk_head_dim"), ("value", "v_head_dim")):
            heads = getattr(block, part)
            self._check_projected(f"{where}.{part}", heads, before[size], after[size])
            if heads == PROJECTED:
                continue
            if len(heads) != len(block.heads):
                raise ValueError(f"{where}.{part} has {len(heads)} heads, the block keeps {len(block.heads)}.")
            for kept in heads:
                _check_kept(f"{where}.{part}", kept, before[size], after[size])
        _check_kept(f"{where}.mlp", block.mlp, before["intermediate_size"], after["intermediate_size"])

    def _check_projected(self, where: str, kept: list | str, size_before: int, size_after: int) -> None:
        """Strings other than "projected", or "projected" where it cannot be."""
        if isinstance(kept, str) and (
            kept != PROJECTED or self.config.method != "projection" or not 0 < size_after < size_before
        ):
            raise ValueError(
                f"{where} must be a list of kept neurons, or {PROJECTED!r} where method 'projection' makes it "
                f"smaller; got {kept!r} with method {self.config.method!r} and sizes {size_before} -> {size_after}."
            )

    def __str__(self) -> str:
        header = f"{'block':>5}  {'heads':>8}  {'q/k per head':>14}  {'v per head':>14}  {'MLP':>14}"
        if any(block.merged_tokens for block in self.blocks):
            header += f"  {'tokens':>12}"
        rows = [header]
        for stage, width in enumerate(self.widths):
            rows.append("-" * len(header))
            if len(self.widths) > 1:
                rows.append(f"stage {stage}, hidden size {width.before} -> {width.after}")
            rows += [_table_row(index, block) for index, block in enumerate(self.blocks) if block.stage == stage]
        rows.append("-" * len(header))
        if len(self.widths) == 1:
            rows.append(f"hidden size   {self.widths[0].before} -> {self.widths[0].after}")
        rows += [
            f"MACs          {_change(self.macs_before, self.macs_after)}",
            f"parameters    {_change(self.parameters_before, self.parameters_after)}",
        ]
        if self.latency:
            rows.append(_latency_row(**self.latency))
        if self.previous:
            first = self.steps[0]
            rows += [
                f"This is step {len(self.steps)}. Since before step 1:",
                f"MACs          {_change(first.macs_before, self.macs_after)}",
                f"parameters    {_change(first.parameters_before, self.parameters_after)}",
            ]
        return "\n".join(rows)


def _sizes_of(block: dict[str, Any]) -> dict[str, Any]:
    return {name: size for name, size in block.items() if name != "attention_scale"}


def _read_part(kind: type, values: dict[str, Any], where: str) -> Any:
    expected = [option.name for option in fields(kind)]
    if not set(expected) <= set(values):
        raise ValueError(f"{where} of the plan must have the fields {', '.join(sorted(expected))}.")
    return read_fields(kind, values, f"{where} of the plan")


def _table_row(index: int, block: BlockPlan) -> str:
    if block.after is None:
        return f"{index:>5}  dropped"
    names = ("num_attention_heads", *(part.size_name for part in NEURON_PARTS))
    sizes = [f"{block.before[name]} -> {block.after[name]}" for name in names]
    row = f"{index:>5}  {sizes[0]:>8}  " + "  ".join(f"{size:>14}" for size in sizes[1:])
    return f"{row}  {f'{block.merged_tokens} merged':>12}" if block.merged_tokens else row


def _latency_row(
    asked: float, predicted: float, reached: float, backend: str, batch_size: int, threads: int | None, machine: str
) -> str:
    settings = [backend, f"batch size {batch_size}"]
    if threads:
        settings.append(f"{threads} thread{'s' * (threads > 1)}")
    return f"latency       {reached:.1%} remain, {asked:.1%} asked ({', '.join([*settings, machine])})"


def _all_heads(part: dict[str, Any]) -> list[int]:
    heads = part.get("before", {}).get("num_attention_heads", 0)
    if heads > _MOST_HEADS:
        raise ValueError(f"A block of the plan has {heads} heads; at most {_MOST_HEADS} can be.")
    return list(range(heads))


def _check_sizes(where: str, sizes: dict[str, Any]) -> None:
    """Sizes of a block as `block_configs` hold them; a model's config checks the rest."""
    if not isinstance(sizes, dict):
        raise ValueError(f"{where} must hold the sizes of a block, got {sizes!r}.")
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LARGEST_SIZE:
            raise ValueError(f"{where}.{name} must be a number from 0 on, got {value!r}.")


def _told(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _check_kept(where: str, kept: list[int], size_before: int, size_after: int, noun: str = "neurons") -> None:
    if len(kept) != size_after:
        raise ValueError(f"{where} keeps {len(kept)} {noun}, the size after pruning is {size_after}.")
    if kept != sorted(set(kept)) or not all(isinstance(i, int) and 0 <= i < size_before for i in kept):
        raise ValueError(f"{where} must be rising, different integers from 0 to {size_before - 1}.")


def _change(before: int, after: int) -> str:
    unit, symbol = (1e9, "G") if before >= 1e9 else (1e6, "M")
    return f"{before / unit:.2f} {symbol} -> {after / unit:.2f} {symbol} ({after / before:.1%} remain)"

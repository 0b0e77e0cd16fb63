"""The plan: which neurons of every block stay. Small, readable, JSON."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from ..configuration import SNPConfig
from ..structure import block_sizes, resized_config, stream_widths
from .sizes import PART_SIZES


PLAN_NAME = "pruning_plan.json"
FORMAT_VERSION = 1
# In place of kept neurons, where directions are kept that are no neurons.
PROJECTED = "projected"


@dataclass
class BlockPlan:
    """What stays of one block.

    Attributes:
        before, after (`dict`):
            The block's entry of `block_configs`.
        query_key, value (`list[list[int]]` or `"projected"`):
            Per head the kept neurons, rising, each head counting from 0.
        mlp (`list[int]`):
            The kept MLP neurons, rising.
        stage (`int`):
            The stage of a Swin that the block belongs to; 0 in a ViT.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    query_key: list[list[int]] | str
    value: list[list[int]] | str
    mlp: list[int]
    stage: int = 0


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


@dataclass
class PruningPlan:
    """Sizes and kept neurons of every block, with what the model costs before and after.

    Attributes:
        config ([`SNPConfig`]):
            What was asked for.
        widths (`list[WidthPlan]`):
            One entry per residual stream: one for a ViT, one per stage for a Swin.
        blocks (`list[BlockPlan]`):
            One entry per block, in execution order.
        macs_before, macs_after (`int`):
            Multiply-accumulates for one image of the configured size.
        parameters_before, parameters_after (`int`):
            Number of weights.
        previous (`PruningPlan`, *optional*):
            The plan that the model was pruned by before this one; `None` for a first step.
        latency (`dict`, *optional*):
            With a `target_latency`: `asked`, `predicted` and `reached`, as shares of the time that the model takes
            before; and `backend`, `batch_size`, `threads` and `machine`, which that was measured with.
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

    @property
    def steps(self) -> list["PruningPlan"]:
        """All plans that lead to the pruned model, the first one first, this one last."""
        return [*(self.previous.steps if self.previous else []), self]

    def pruned_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The config of the pruned model, given that of the dense one.

        Raises:
            ValueError: If the plan was made for a model of other sizes.
        """
        if ([width.before for width in self.widths], [block.before for block in self.blocks]) != (
            stream_widths(config),
            block_sizes(config),
        ):
            raise ValueError(
                "This plan was made for a model of other sizes. Make one for this model with SNPPruner.plan."
            )
        return resized_config(
            config,
            [block.after for block in self.blocks],
            [width.after for width in self.widths],
            method=self.config.method,
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
        values = {"previous": None, "latency": None, **values}
        missing = [option.name for option in fields(cls) if option.name not in values]
        if missing:
            raise ValueError(f"The plan has no {', '.join(missing)}.")
        values = {option.name: values[option.name] for option in fields(cls)}
        values["config"] = SNPConfig.from_dict(values["config"])
        for name, kind in (("widths", WidthPlan), ("blocks", BlockPlan)):
            expected = {option.name for option in fields(kind)}
            for index, part in enumerate(values[name]):
                if set(part) != expected:
                    raise ValueError(
                        f"{name}[{index}] of the plan must have the fields {', '.join(sorted(expected))}."
                    )
            values[name] = [kind(**part) for part in values[name]]
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
        """Reads what `save` wrote; raises as `from_dict` does."""
        return cls.from_dict(json.loads(Path(path).read_text()))

    def _check(self) -> None:
        for index, width in enumerate(self.widths):
            self._check_projected(f"widths[{index}]", width.kept, width.before, width.after)
            if width.kept != PROJECTED:
                _check_kept(f"widths[{index}]", width.kept, width.before, width.after)
        for index, block in enumerate(self.blocks):
            before, after = block.before, block.after
            for part, size in (("query_key", "qk_head_dim"), ("value", "v_head_dim")):
                heads = getattr(block, part)
                self._check_projected(f"blocks[{index}].{part}", heads, before[size], after[size])
                if heads == PROJECTED:
                    continue
                if len(heads) != before["num_attention_heads"]:
                    raise ValueError(
                        f"blocks[{index}].{part} has {len(heads)} heads, the block {before['num_attention_heads']}."
                    )
                for kept in heads:
                    _check_kept(f"blocks[{index}].{part}", kept, before[size], after[size])
            _check_kept(f"blocks[{index}].mlp", block.mlp, before["intermediate_size"], after["intermediate_size"])

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
        header = f"{'block':>5}  {'heads':>5}  {'q/k per head':>14}  {'v per head':>14}  {'MLP':>14}"
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


def _table_row(index: int, block: BlockPlan) -> str:
    sizes = [f"{block.before[name]} -> {block.after[name]}" for name in PART_SIZES.values()]
    return f"{index:>5}  {block.after['num_attention_heads']:>5}  " + "  ".join(f"{size:>14}" for size in sizes)


def _latency_row(
    asked: float, predicted: float, reached: float, backend: str, batch_size: int, threads: int | None, machine: str
) -> str:
    settings = [backend, f"batch size {batch_size}"]
    if threads:
        settings.append(f"{threads} thread{'s' * (threads > 1)}")
    return f"latency       {reached:.1%} remain, {asked:.1%} asked ({', '.join([*settings, machine])})"


def _check_kept(where: str, kept: list[int], size_before: int, size_after: int) -> None:
    if len(kept) != size_after:
        raise ValueError(f"{where} keeps {len(kept)} neurons, the size after pruning is {size_after}.")
    if kept != sorted(set(kept)) or not all(isinstance(i, int) and 0 <= i < size_before for i in kept):
        raise ValueError(f"{where} must be rising, different integers from 0 to {size_before - 1}.")


def _change(before: int, after: int) -> str:
    unit, symbol = (1e9, "G") if before >= 1e9 else (1e6, "M")
    return f"{before / unit:.2f} {symbol} -> {after / unit:.2f} {symbol} ({after / before:.1%} remain)"

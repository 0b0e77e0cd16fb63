"""The plan: which neurons of every block stay. Small, readable, JSON."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..configuration import SNPConfig
from ..models import SNPViTConfig, SNPViTForImageClassification, SNPViTModel
from ..scoring import Scores
from .costs import count_macs, count_parameters, skeleton


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
    """

    before: dict[str, Any]
    after: dict[str, Any]
    query_key: list[list[int]] | str
    value: list[list[int]] | str
    mlp: list[int]


@dataclass
class PruningPlan:
    """Sizes and kept neurons of every block, with what the model costs before and after.

    Attributes:
        config ([`SNPConfig`]):
            What was asked for.
        hidden_size_before, hidden_size_after (`int`):
            Width of the residual stream.
        hidden (`list[int]` or `"projected"`):
            The kept channels of the residual stream, rising.
        blocks (`list[BlockPlan]`):
            One entry per block.
        macs_before, macs_after (`int`):
            Multiply-accumulates for one image of the configured size.
        parameters_before, parameters_after (`int`):
            Number of weights.
    """

    config: SNPConfig
    hidden_size_before: int
    hidden_size_after: int
    hidden: list[int] | str
    blocks: list[BlockPlan]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int

    def pruned_config(self, config: SNPViTConfig) -> SNPViTConfig:
        """The config of the pruned model, given that of the dense one.

        Raises:
            ValueError: If the plan was made for a model of other sizes.
        """
        if self.hidden_size_before != config.hidden_size or [b.before for b in self.blocks] != config.block_configs:
            raise ValueError(
                "This plan was made for a model of other sizes. Make one for this model with SNPPruner.plan."
            )
        fields_after = {
            **config.to_dict(),
            "hidden_size": self.hidden_size_after,
            "block_configs": [block.after for block in self.blocks],
        }
        if self.hidden == PROJECTED:
            fields_after.update(norm_type="rms", norm_width=config.norm_width or self.hidden_size_before)
        if self.config.method != "snp" and self.hidden_size_after < self.hidden_size_before:
            fields_after["qkv_bias"] = True  # the norms' shift and the mean of what is dropped go there
        return type(config).from_dict(fields_after)

    def to_dict(self) -> dict[str, Any]:
        """The plan as a dict that JSON can hold."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

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
        missing = [option.name for option in fields(cls) if option.name not in values]
        if missing:
            raise ValueError(f"The plan has no {', '.join(missing)}.")
        values = {option.name: values[option.name] for option in fields(cls)}
        values["config"] = SNPConfig.from_dict(values["config"])
        expected = {option.name for option in fields(BlockPlan)}
        for index, block in enumerate(values["blocks"]):
            if set(block) != expected:
                raise ValueError(f"blocks[{index}] of the plan must have the fields {', '.join(sorted(expected))}.")
        values["blocks"] = [BlockPlan(**block) for block in values["blocks"]]
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
        self._check_projected("hidden", self.hidden, self.hidden_size_before, self.hidden_size_after)
        if self.hidden != PROJECTED:
            _check_kept("hidden", self.hidden, self.hidden_size_before, self.hidden_size_after)
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
        rows = [header, "-" * len(header)]
        for index, block in enumerate(self.blocks):
            before, after = block.before, block.after
            sizes = [f"{before[name]} -> {after[name]}" for name in ("qk_head_dim", "v_head_dim", "intermediate_size")]
            rows.append(
                f"{index:>5}  {after['num_attention_heads']:>5}  " + "  ".join(f"{size:>14}" for size in sizes)
            )
        rows += [
            "-" * len(header),
            f"hidden size   {self.hidden_size_before} -> {self.hidden_size_after}",
            f"MACs          {_change(self.macs_before, self.macs_after)}",
            f"parameters    {_change(self.parameters_before, self.parameters_after)}",
        ]
        return "\n".join(rows)


def make_plan(model: SNPViTModel | SNPViTForImageClassification, scores: Scores, config: SNPConfig) -> PruningPlan:
    """Turns the shares of `config` into sizes, and keeps the neurons with the highest scores.

    Args:
        model:
            The dense model in our architecture.
        scores ([`Scores`]):
            Of this model.
        config ([`SNPConfig`]):
            The shares to remove.

    Returns:
        [`PruningPlan`]

    Raises:
        ValueError: If a list of shares has not one entry per block.
    """
    blocks_before = model.config.block_configs
    shares = {
        name: block_shares(name, getattr(config, name), len(blocks_before))
        for name in ("qk_sparsity", "v_sparsity", "mlp_sparsity")
    }
    blocks = []
    for index, before in enumerate(blocks_before):
        after = {
            **before,
            "qk_head_dim": kept_size(before["qk_head_dim"], shares["qk_sparsity"][index], config.round_to),
            "v_head_dim": kept_size(before["v_head_dim"], shares["v_sparsity"][index], config.round_to),
            "intermediate_size": kept_size(
                before["intermediate_size"], shares["mlp_sparsity"][index], config.round_to
            ),
        }
        blocks.append(
            BlockPlan(
                before=dict(before),
                after=after,
                query_key=_kept_of_heads(scores.query_key[index], after["qk_head_dim"], config.method),
                value=_kept_of_heads(scores.value[index], after["v_head_dim"], config.method),
                mlp=keep_highest(scores.mlp[index], after["intermediate_size"]),
            )
        )
    hidden_size = kept_size(model.config.hidden_size, config.hidden_sparsity, config.round_to)
    rotated = config.method == "projection" and hidden_size < model.config.hidden_size
    plan = PruningPlan(
        config=config,
        hidden_size_before=model.config.hidden_size,
        hidden_size_after=hidden_size,
        hidden=PROJECTED if rotated else keep_highest(scores.hidden, hidden_size),
        blocks=blocks,
        macs_before=count_macs(model),
        macs_after=0,
        parameters_before=count_parameters(model),
        parameters_after=0,
    )
    pruned = skeleton(type(model), plan.pruned_config(model.config))
    plan.macs_after, plan.parameters_after = count_macs(pruned), count_parameters(pruned)
    return plan


def check_fits(config: SNPConfig, model_config: SNPViTConfig) -> None:
    """Tells before any work whether a config can be planned for a model.

    Raises:
        ValueError: If a list of shares has not one entry per block.
    """
    for name in ("qk_sparsity", "v_sparsity", "mlp_sparsity"):
        block_shares(name, getattr(config, name), len(model_config.block_configs))


def block_shares(name: str, shares: float | list[float], num_blocks: int) -> list[float]:
    """One share per block.

    Raises:
        ValueError: If a list has another length.
    """
    if not isinstance(shares, list):
        return [shares] * num_blocks
    if len(shares) != num_blocks:
        raise ValueError(f"{name} has {len(shares)} shares, but the model has {num_blocks} blocks.")
    return shares


def kept_size(size: int, share: float, round_to: int) -> int:
    """`size * (1 - share)` rounded half up to a multiple of `round_to`, at least one such multiple, at most `size`."""
    if share == 0:
        return size
    multiples = math.floor(size * (1 - share) / round_to + 0.5)
    return min(size, max(1, multiples) * round_to)


def keep_highest(scores: torch.Tensor, count: int) -> list[int]:
    """The positions of the `count` highest of `scores`, rising; of equal scores the first stays."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def _kept_of_heads(scores: torch.Tensor, size: int, method: str) -> list[list[int]] | str:
    """The kept neurons of each head; no neurons where directions are kept."""
    if method == "projection" and size < scores.shape[1]:
        return PROJECTED
    return [keep_highest(head, size) for head in scores]


def _check_kept(where: str, kept: list[int], size_before: int, size_after: int) -> None:
    if len(kept) != size_after:
        raise ValueError(f"{where} keeps {len(kept)} neurons, the size after pruning is {size_after}.")
    if kept != sorted(set(kept)) or not all(isinstance(i, int) and 0 <= i < size_before for i in kept):
        raise ValueError(f"{where} must be rising, different integers from 0 to {size_before - 1}.")


def _change(before: int, after: int) -> str:
    unit, symbol = (1e9, "G") if before >= 1e9 else (1e6, "M")
    return f"{before / unit:.2f} {symbol} -> {after / unit:.2f} {symbol} ({after / before:.1%} remain)"

"""Rows and columns of the tables in the card and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..plan.plan import PruningPlan
from ..record.measurements import DENSE, FINE_TUNED, PRUNED, Accuracy, Latency, Measurements, Stage


_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
EMPTY = "\N{EN DASH}"


@dataclass
class Row:
    """One quantity of several models."""

    name: str
    cells: list[str]


@dataclass
class Table:
    """Quantities of several models, or of one model at several stages."""

    columns: list[str]
    rows: list[Row]


@dataclass
class BlockRow:
    """The sizes of one block before and after pruning."""

    name: str
    heads: str
    query_key: str
    value: str
    mlp: str


def number_table(plan: PruningPlan | None, measurements: Measurements, dtype: torch.dtype) -> Table:
    """What is known of a model and of the stages before it; a quantity that nobody measured has no row."""
    stages = stages_of(plan, measurements)
    rows = accuracy_rows(measurements.accuracies, stages)
    rows += cost_rows(plan, stages, dtype) if plan else []
    rows += latency_rows(measurements.latencies, stages)
    return Table(stage_names(stages, measurements.stage), rows)


def stages_of(plan: PruningPlan | None, measurements: Measurements) -> list[Stage]:
    """The stages that have a column: the dense model, every pruning, and fine-tuning where anything is known of it."""
    known = {measurements.stage} | {number.stage for number in (*measurements.accuracies, *measurements.latencies)}
    stages = [Stage(0, DENSE)]
    for step in range(1, len(plan.steps) + 1 if plan else 1):
        stages.append(Stage(step, PRUNED))
        if Stage(step, FINE_TUNED) in known:
            stages.append(Stage(step, FINE_TUNED))
    return stages


def stage_names(stages: Sequence[Stage], present: Stage) -> list[str]:
    """Headers of the columns; steps are numbered only where there are several."""
    several = stages[-1].step > 1
    names = [f"{stage.name}, step {stage.step}" if several and stage.step else stage.name for stage in stages]
    return [f"{name} (this model)" if stage == present else name for name, stage in zip(names, stages, strict=True)]


def accuracy_rows(numbers: Sequence[Accuracy], stages: Sequence[Stage]) -> list[Row]:
    """Two rows per data set."""
    rows = []
    for conditions in _in_order(number.conditions for number in numbers):
        of_stage = {number.stage: number for number in numbers if number.conditions == conditions}
        found = [of_stage.get(stage) for stage in stages]
        where = f"{'zero-shot ' if conditions.texts else ''}accuracy on {describe_dataset(conditions)}"
        rows.append(Row(f"Top-1 {where}", [EMPTY if n is None else f"{n.accuracy:.2%}" for n in found]))
        rows.append(Row(f"Top-5 {where}", [EMPTY if n is None else f"{n.top5_accuracy:.2%}" for n in found]))
    return rows


def latency_rows(numbers: Sequence[Latency], stages: Sequence[Stage]) -> list[Row]:
    """One row per machine and settings."""
    rows = []
    for conditions in _in_order(number.conditions for number in numbers):
        of_stage = {number.stage: number for number in numbers if number.conditions == conditions}
        found = [of_stage.get(stage) for stage in stages]
        images = "1 image" if conditions.batch_size == 1 else f"{conditions.batch_size} images"
        threads = f", {_count(conditions.threads, 'thread')}" if conditions.threads else ""
        where = f"{plain(conditions.machine)}{threads}, {conditions.dtype}, PyTorch {conditions.torch}"
        rows.append(
            Row(
                f"Latency of {images}, median ({where})",
                [EMPTY if n is None else f"{n.seconds * 1e3:.2f} ms" for n in found],
            )
        )
    return rows


def cost_rows(plan: PruningPlan, stages: Sequence[Stage], dtype: torch.dtype) -> list[Row]:
    """FLOPs, parameters and size of the weights at every stage."""
    macs = [plan.steps[0].macs_before] + [step.macs_after for step in plan.steps]
    parameters = [plan.steps[0].parameters_before] + [step.parameters_after for step in plan.steps]
    sizes = [count * dtype.itemsize for count in parameters]
    return [
        Row("FLOPs of one image (multiply\N{EN DASH}accumulates)", format_counts([macs[s.step] for s in stages])),
        Row("Parameters", format_counts([parameters[s.step] for s in stages])),
        Row(f"Size of the weights ({dtype_name(dtype)})", [format_bytes(sizes[s.step]) for s in stages]),
    ]


def block_rows(plan: PruningPlan) -> list[BlockRow]:
    """Sizes of every block before the first step and after the last."""
    rows = []
    for name, block in zip(block_names(plan), plan.history, strict=True):
        if block.after is None:
            rows.append(BlockRow(name, "dropped", EMPTY, EMPTY, EMPTY))
            continue
        sizes = ("num_attention_heads", "qk_head_dim", "v_head_dim", "intermediate_size")
        rows.append(BlockRow(name, *(_change(block.before[size], block.after[size]) for size in sizes)))
    return rows


def block_names(plan: PruningPlan) -> list[str]:
    """`0`, `1` and so on; where there are stages `0.0`, `0.1`, `1.0`: the stage and the block in it.

    Those of the model before the first step.
    """
    stages = [block.stage for block in plan.steps[0].blocks]
    if not any(stages):
        return [str(index) for index in range(len(stages))]
    return [f"{stage}.{index - stages.index(stage)}" for index, stage in enumerate(stages)]


def block_heading(plan: PruningPlan) -> str:
    """What the names of the blocks are."""
    return "stage.block" if any(block.stage for block in plan.steps[0].blocks) else "block"


def width_change(plan: PruningPlan) -> str:
    """One sentence on the residual stream, or those of the stages."""
    changes = [_change(old.before, new.after) for old, new in zip(plan.steps[0].widths, plan.widths, strict=True)]
    by_stage = " by stage" if len(changes) > 1 else ""
    return f"Width of the residual stream{by_stage}: {', '.join(changes)}."


def describe_dataset(number: Accuracy) -> str:
    """For example `ylecun/mnist, test split, 1,000 images`."""
    parts = [plain(number.dataset)] if number.dataset else []
    parts += [f"{number.split} split"] if number.split else []
    return ", ".join([*parts, _count(number.num_images, "image")])


def format_counts(values: Sequence[float]) -> list[str]:
    """Numbers of one row, all with the unit G, M or k that suits the greatest."""
    unit, symbol = next((unit for unit in _UNITS if max(values) >= unit[0]), (1, ""))
    return [f"{value / unit:.2f} {symbol}" if symbol else str(value) for value in values]


def dtype_name(dtype: torch.dtype) -> str:
    """For example `float32`."""
    return str(dtype).removeprefix("torch.")


def format_bytes(value: int) -> str:
    """In MB of 10^6 bytes."""
    return f"{value / 1e6:.2f} MB"


def plain(text: str) -> str:
    """A name from outside as one line of text, without what Markdown tables and HTML would read as their own."""
    return " ".join("".join(character for character in text if character not in "|<>`[]\\").split())


def _change(before: int, after: int) -> str:
    return f"{before} \N{RIGHTWARDS ARROW} {after}" if before != after else str(after)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _in_order(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def token_change(plan: PruningPlan) -> str:
    """How many tokens the blocks merge, as a sentence; nothing if none do."""
    counts = [block.merged_tokens for block in plan.kept_blocks]
    if not any(counts):
        return ""
    return (
        f"Behind their attention, the blocks merge {', '.join(map(str, counts))} of their most alike patches "
        f"into others (ToMe, arXiv 2210.09461): {sum(counts)} tokens fewer behind the last block."
    )

"""Pictures of what pruning did, as PNG files that are legible at the width of a card (about 800 pixels)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import BLUE, DPI, GREEN, GREY, ORANGE, PINK, SKY, WIDTH, YELLOW
from ..plan.plan import PruningPlan
from ..record.measurements import Measurements
from .tables import block_heading, block_names


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT_SIZES, SPECTRA = "kept_sizes.png", "attention_spectra.png"
ATTENTION, TRADE_OFF = "attention_maps.png", "accuracy_over_flops.png"
MERGED_PATCHES = "merged_patches.png"

MARKERS = "osD^vP*X"

_MOST_HEADS = 8  # side by side; more would be too small to see
_MOST_NUMBERED = 16  # bars with room for their number

_PARTS = (
    ("qk_head_dim", "queries and keys, per head", BLUE),
    ("v_head_dim", "values, per head", ORANGE),
    ("intermediate_size", "MLP", GREEN),
)

# Shown where any went.
_HEADS = ("num_attention_heads", "heads", PINK)


@dataclass(frozen=True)
class Picture:
    """A file and what it shows, for readers who do not see it."""

    file: str
    description: str


def draw_pictures(folder: Path, plan: PruningPlan, measurements: Measurements, prefix: str = "") -> list[Picture]:
    """Draws what plan and measurements of one model can show.

    Args:
        folder (`Path`):
            Where the PNG files go; made if need be.
        plan ([`PruningPlan`]):
            The plan of the model.
        measurements ([`Measurements`]):
            Its measurements.
        prefix (`str`, *optional*):
            Of the names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [draw_kept_sizes(folder / f"{prefix}{KEPT_SIZES}", plan)]
    if measurements.spectra is not None:
        cuts = {
            name: _size(block.after, "qk_head_dim")
            for name, block in zip(block_names(plan), plan.history, strict=True)
        }
        pictures.append(draw_spectra(folder / f"{prefix}{SPECTRA}", measurements.spectra, cuts))
    return pictures


def draw_kept_sizes(path: Path, plan: PruningPlan) -> Picture:
    """Bars of the sizes of every block: outlined what the dense model had, filled what is left."""
    from matplotlib.patches import Patch

    history, names = plan.history, block_names(plan)
    whole = [len(block.heads) == block.before["num_attention_heads"] for block in history]
    parts = _PARTS if all(whole) else (_HEADS, *_PARTS)
    figure = _figure(1.4 + 1.4 * len(parts))
    panels = figure.subplots(len(parts), 1, sharex=True)
    blocks = np.arange(len(history))
    for axes, (size, name, colour) in zip(panels, parts, strict=True):
        dense = np.array([block.before[size] for block in history])
        kept = np.array([_size(block.after, size) for block in history])
        axes.bar(blocks, dense, width=0.8, facecolor="none", edgecolor=GREY, linewidth=1)
        axes.bar(blocks, kept, width=0.8, color=colour)
        if len(blocks) <= _MOST_NUMBERED:
            for block, value in enumerate(kept):
                inside = value > dense.max() / 4
                axes.annotate(
                    str(value),
                    (block, value),
                    (0, -3 if inside else 2),
                    textcoords="offset points",
                    ha="center",
                    va="top" if inside else "bottom",
                    color="white" if inside else "black",
                    fontsize=9,
                )
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_ylim(0, 1.05 * dense.max())
        _plain_axes(axes)
    panels[-1].set_xlabel(block_heading(plan))
    shown = slice(None, None, 1 if len(blocks) <= _MOST_NUMBERED else 2)
    panels[-1].set_xticks(blocks[shown], names[shown])
    keys = [Patch(facecolor="none", edgecolor=GREY, label="before pruning"), Patch(color=GREY, label="kept")]
    figure.legend(handles=keys, loc="outside upper right", ncols=2, frameon=False)
    return _save(figure, path, "Bars of the sizes of every block before and after pruning.")


def draw_spectra(path: Path, spectra: Sequence[Sequence[Sequence[float]]], cuts: Mapping[str, int]) -> Picture:
    """Singular values of the attention scores, one line per head, and how many directions or neurons are left.

    Args:
        path (`Path`):
            The file.
        spectra:
            Per block and head the singular values, falling, relative to the greatest.
        cuts:
            By name of the block the size of queries and keys after pruning.
    """
    columns = min((4, 3), key=lambda columns: -len(spectra) % columns)
    rows = -(-len(spectra) // columns)
    figure = _figure(1.75 * rows + 0.6)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    drawn = zip(panels[: len(spectra)], spectra, cuts.items(), strict=True)
    for number, (axes, heads, (block, cut)) in enumerate(drawn):
        size = len(heads[0])
        for head in heads:
            axes.semilogy(np.arange(1, size + 1), np.maximum(head, 1e-6), color=BLUE, alpha=0.6, linewidth=1.2)
        if cut < size:
            axes.axvspan(cut + 0.5, size + 0.5, color=GREY, alpha=0.18, linewidth=0)
            axes.axvline(cut + 0.5, color=ORANGE, linewidth=1.8)
        axes.set_title(f"block {block}: {cut} of {size}", fontsize=10)
        axes.set_xlim(0.5, size + 0.5)
        axes.tick_params(labelbottom=number + columns >= len(spectra))
        _plain_axes(axes)
    for axes in panels[len(spectra) :]:
        axes.remove()
    figure.supxlabel("singular direction of the attention scores; grey: beyond the size that was kept", fontsize=10)
    figure.supylabel("singular value,\nrelative to the greatest", fontsize=10)
    return _save(figure, path, "Singular values of the attention scores of every head, with the size that is kept.")


def draw_attention(
    path: Path, images: np.ndarray, before: np.ndarray, after: np.ndarray, title: str, heads: Sequence[int]
) -> Picture:
    """Attention maps of images by the original and the pruned model, one below the other, side by side per head.

    Args:
        path (`Path`):
            The file.
        images (`np.ndarray` of shape `[images, height, width, 3]`):
            In [0, 1].
        before, after (`np.ndarray` of shape `[images, heads, rows, columns]`):
            How much attention each place of the image gets, from the original and the pruned model.
        title (`str`):
            Which block, and whose attention it is.
        heads (`Sequence[int]`):
            The numbers of the heads.
    """
    shown = heads[:_MOST_HEADS]
    tile = min(1.2, WIDTH / (len(shown) + 1))
    figure = _figure(2 * len(images) * tile + 0.7, layout="compressed")
    panels = figure.subplots(2 * len(images), len(shown) + 1, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    for number, image in enumerate(images):
        upper, lower = panels[2 * number], panels[2 * number + 1]
        upper[0].imshow(image, interpolation="nearest")
        lower[0].set_axis_off()
        upper[1].set_ylabel("original", fontsize=9)
        lower[1].set_ylabel("pruned", fontsize=9)
        for head in range(len(shown)):
            pair = before[number, head], after[number, head]
            brightest = max(array.max() for array in pair)  # one scale for both
            for row, array in zip((upper, lower), pair, strict=True):
                row[head + 1].imshow(array, cmap="cividis", vmin=0, vmax=brightest, interpolation="nearest")
    for place, head in enumerate(shown):
        panels[0, place + 1].set_title(f"head {head}", fontsize=10)
    of_all = f" (first {len(shown)} of {len(heads)} heads)" if len(shown) < len(heads) else ""
    figure.suptitle(title + of_all, fontsize=11)
    return _save(figure, path, f"Attention maps before and after pruning: {title}.")


def draw_merged_patches(path: Path, images: np.ndarray, groups: np.ndarray) -> Picture:
    """Beside every image which of its patches merged: each group has its mean colour, with lines around it.

    Args:
        path (`Path`):
            The file.
        images (`np.ndarray` of shape `[images, height, width, 3]`):
            In [0, 1].
        groups (`np.ndarray` of shape `[images, rows, columns]`):
            The group of every patch, by number.
    """
    _, rows, columns = groups.shape
    height, width = images.shape[1] // rows, images.shape[2] // columns  # of a patch
    figure_rows = -(-len(images) // 2)
    figure = _figure(figure_rows * WIDTH / 4 * images.shape[1] / images.shape[2] + 0.4, layout="compressed")
    panels = figure.subplots(figure_rows, 4, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for image, group, pair in zip(images, groups, panels.reshape(-1, 2), strict=False):
        shown = image[: rows * height, : columns * width]
        pair[0].imshow(shown)
        patches = shown.reshape(rows, height, columns, width, 3).mean((1, 3))
        colours = np.zeros((group.max() + 1, 3))
        np.add.at(colours, group, patches)
        counts = np.bincount(group.ravel(), minlength=len(colours))
        pair[1].imshow((colours / np.maximum(counts, 1)[:, None])[group], aspect=height / width)
        y, x = np.nonzero(group[:, 1:] != group[:, :-1])
        pair[1].vlines(x + 0.5, y - 0.5, y + 0.5, color="black", linewidth=0.6)
        y, x = np.nonzero(group[1:] != group[:-1])
        pair[1].hlines(y + 0.5, x - 0.5, x + 0.5, color="black", linewidth=0.6)
        pair[1].set_title(f"{len(np.unique(group))} of {group.size}", fontsize=9)
    return _save(figure, path, "Which patches merge: every group has its mean colour, and lines go around it.")


def draw_trade_off(path: Path, models: Sequence[tuple[str, int, float]], dataset: str) -> Picture:
    """Accuracy over FLOPs of several models.

    Args:
        path (`Path`):
            The file.
        models:
            Name, multiply-accumulates and accuracy (a share) of each.
        dataset (`str`):
            What the accuracies were measured on.
    """
    figure = _figure(4.2)
    axes = figure.subplots()
    colours = (GREY, BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
    unit, symbol = (1e9, "G") if max(macs for _, macs, _ in models) >= 1e9 else (1e6, "M")
    for number, (_, macs, accuracy) in enumerate(models):
        style = {"marker": MARKERS[number % len(MARKERS)], "color": colours[number % len(colours)]}
        axes.plot(macs / unit, 100 * accuracy, linestyle="none", markersize=10, **style)
    axes.margins(x=0.08, y=0.15)
    axes.set_xlim(left=0)
    axes.set_ylim(top=min(axes.get_ylim()[1], 102))
    axes.set_xlabel(f"FLOPs of one image ({symbol} multiply\N{EN DASH}accumulates)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.grid(alpha=0.3)
    _plain_axes(axes)
    # The names are set as they are: as labels, some would be left out or read as formulas.
    legend = figure.legend(axes.lines, range(len(models)), loc="outside right upper", frameon=False)
    for text, (name, _, _) in zip(legend.get_texts(), models, strict=True):
        text.set(text=name, parse_math=False)
    return _save(figure, path, f"Top-1 accuracy over FLOPs, measured on {dataset}.")


def _size(block: dict | None, name: str) -> int:
    """A size of a block, 0 of one that was dropped."""
    return 0 if block is None else block[name]


def _figure(height: float, layout: str = "constrained") -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout=layout, facecolor="white")


def _plain_axes(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: "Figure", path: Path, description: str) -> Picture:
    figure.savefig(path, dpi=DPI)
    return Picture(path.name, description)

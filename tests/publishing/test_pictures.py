"""Every picture is drawn, at card width, and shows the numbers that it is given."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from transformers import SwinConfig, SwinModel
from transformers.models.swin.modeling_swin import window_reverse

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.publishing import pictures
from optimum_snp.publishing.attention import attention_maps
from optimum_snp.publishing.tables import block_rows
from tests.helpers import build_source


pytest.importorskip("matplotlib")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    save = pictures._save

    def keep(figure, path, description):
        figures.append(figure)
        return save(figure, path, description)

    monkeypatch.setattr(pictures, "_save", keep)
    return figures


@pytest.fixture
def plan(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    for config in (SNPConfig(qk_sparsity=[0.25, 0.5, 0.0]), SNPConfig(mlp_sparsity=[0.5, 0.75, 0.9])):
        pruner.prune(config, calibration_dataset=pixel_values)
    return pruner.pruning_plan


def check_png(path, picture):
    assert picture.file == path.name
    assert picture.description.endswith(".")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1200  # sharp at the 800 pixels of a card
        assert len(np.unique(np.asarray(image.convert("L")))) > 10


def test_kept_sizes(plan, drawn, tmp_path):
    check_png(tmp_path / "sizes.png", pictures.draw_kept_sizes(tmp_path / "sizes.png", plan))
    heights = [[bar.get_height() for bar in axes.patches] for axes in drawn[0].axes]
    assert heights == [[12, 12, 12, 9, 6, 12], [12] * 6, [96, 96, 96, 48, 24, 10]]  # before any step, and now
    numbers = [text.get_text() for text in drawn[0].axes[2].texts]
    assert numbers == ["48", "24", "10"]


def test_heads_and_dropped_blocks(source, pixel_values, drawn, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    config = SNPConfig(head_sparsity=[0.5, 0.0, 0.0], dropped_blocks=[1])
    pruner.prune(config, calibration_dataset=pixel_values)
    pictures.draw_pictures(tmp_path, pruner.pruning_plan, pruner.measurements)
    heads, query_key, _, mlp = ([bar.get_height() for bar in axes.patches] for axes in drawn[0].axes)
    assert heads == [4, 4, 4, 2, 0, 4]
    assert query_key == [12, 12, 12, 12, 0, 12]
    assert mlp == [96, 96, 96, 96, 0, 96]
    assert [axes.get_title() for axes in drawn[1].axes] == [
        "block 0: 12 of 12",
        "block 1: 0 of 12",
        "block 2: 12 of 12",
    ]
    rows = block_rows(pruner.pruning_plan)
    assert (rows[0].heads, rows[1].heads, rows[2].heads) == ("4 \N{RIGHTWARDS ARROW} 2", "dropped", "4")


def test_stages_are_named(plan, drawn, tmp_path):
    for stage, block in zip((0, 1, 1), plan.steps[0].blocks, strict=True):
        block.stage = stage
    pictures.draw_kept_sizes(tmp_path / "sizes.png", plan)
    axes = drawn[0].axes[-1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0", "1.0", "1.1"]
    assert axes.get_xlabel() == "stage.block"


@pytest.mark.parametrize("num_blocks", [1, 5, 12, 24])
def test_spectra(num_blocks, drawn, tmp_path):
    spectra = [[[1.0, 0.1 * (block + 1), 0.01, 0.0]] * 3 for block in range(num_blocks)]
    cuts = {str(block): 1 + block % 4 for block in range(num_blocks)}
    check_png(tmp_path / "a.png", pictures.draw_spectra(tmp_path / "a.png", spectra, cuts))
    assert len(drawn[0].axes) == num_blocks
    for block, axes in enumerate(drawn[0].axes):
        cut = cuts[str(block)]
        lines = [line.get_ydata() for line in axes.lines]
        np.testing.assert_allclose(lines[0], np.maximum(spectra[block][0], 1e-6))
        assert [line.get_xdata()[0] for line in axes.lines[3:]] == ([cut + 0.5] if cut < 4 else [])
        assert axes.get_title() == f"block {block}: {cut} of 4"
    width, height = drawn[0].get_size_inches() * drawn[0].dpi
    renderer = FigureCanvasAgg(drawn[0]).get_renderer()
    for label in (drawn[0]._supxlabel, drawn[0]._supylabel):  # none is cut off
        box = label.get_window_extent(renderer)
        assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height


@pytest.mark.parametrize("num_heads", [1, 3, 12])
def test_attention(num_heads, drawn, tmp_path):
    generator = np.random.default_rng(0)
    images = generator.random((2, 8, 8, 3))
    before, after = generator.random((2, 2, num_heads, 4, 4))
    picture = pictures.draw_attention(tmp_path / "a.png", images, before, after, "block 3", range(before.shape[1]))
    check_png(tmp_path / "a.png", picture)
    shown = min(num_heads, 8)
    grid = np.array(drawn[0].axes).reshape(4, shown + 1)
    for number in range(2):
        for head in range(shown):
            for row, maps in ((2 * number, before), (2 * number + 1, after)):
                [image] = grid[row, head + 1].images
                np.testing.assert_array_equal(image.get_array(), maps[number, head])
                assert image.get_clim() == (0, max(before[number, head].max(), after[number, head].max()))
    assert drawn[0].get_suptitle() == "block 3" + (" (first 8 of 12 heads)" if num_heads == 12 else "")


def test_trade_off(drawn, tmp_path):
    models = [("_dense", 4_600_000_000, 0.798), ("$\\small$", 2_000_000_000, 0.785)]
    check_png(tmp_path / "a.png", pictures.draw_trade_off(tmp_path / "a.png", models, "digits"))
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in drawn[0].axes[0].lines]
    np.testing.assert_allclose(points, [(4.6, 79.8), (2.0, 78.5)])
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [name for name, _, _ in models]


@pytest.mark.slow
def test_drawing_leaves_the_state_of_matplotlib_alone():
    script = """
import sys, tempfile, pathlib
from optimum_snp.publishing import pictures
assert "matplotlib" not in sys.modules
pictures.draw_trade_off(pathlib.Path(tempfile.mkdtemp(), "a.png"), [("a", 1, 0.5)], "digits")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher"])
def test_maps_of_the_class_token(class_name, pixel_values):
    """Against the source model's own attention."""
    source = build_source(class_name, attn_implementation="eager")
    with torch.inference_mode():
        attentions = source(pixel_values, output_attentions=True).attentions
    found = attention_maps(SNPPruner.from_pretrained(source).model, pixel_values)
    assert [maps.title for maps in found] == [f"attention of the class token in block {block}" for block in (1, 2)]
    for block, maps in zip((1, 2), found, strict=True):
        for row, column in ((0, 0), (1, 3), (3, 1)):
            expected = attentions[block][:, :, 0, -16 + 4 * row + column]
            np.testing.assert_allclose(maps.maps[:, :, row, column], expected, rtol=1e-4, atol=1e-6)


def test_maps_of_windows():
    """Against the source model's own attention, put back by the functions of transformers."""
    sizes = {"embed_dim": 8, "depths": [1, 2, 2], "num_heads": [1, 2, 4], "window_size": 4}
    config = SwinConfig(image_size=36, patch_size=2, initializer_range=0.3, attn_implementation="eager", **sizes)
    source = SwinModel(config).eval()
    pixel_values = torch.randn(2, 3, 36, 36)
    with torch.inference_mode():
        attentions = source(pixel_values, output_attentions=True).attentions
    found = attention_maps(SNPPruner.from_pretrained(source).model, pixel_values)
    # Grids of 9 and 5 tokens, padded to whole windows of 4; the last blocks shift them by 2.
    for stage, heads, size, padded, maps in ((1, 2, 9, 12, found[0]), (2, 4, 5, 8, found[1])):
        received = attentions[stage].mean(-2).unflatten(-1, (4, 4)).movedim(1, -1)
        expected = window_reverse(received, 4, padded, padded).roll((2, 2), (1, 2))[:, :size, :size].movedim(-1, 1)
        assert maps.maps.shape == (2, heads, size, size)
        np.testing.assert_allclose(maps.maps, expected, rtol=1e-4, atol=1e-6)
        assert maps.title == f"mean attention within the windows of the last block of stage {stage}"


def test_merged_patches(drawn, tmp_path):
    """Groups are filled with their mean colours; lines run where neighbours are of different groups."""
    images = np.random.default_rng(0).random((3, 9, 14, 3))  # the last row and the last two columns are no patch
    groups = np.array([[[0, 0, 2], [1, 0, 2]], [[0, 1, 2], [3, 4, 5]], [[0, 0, 0], [0, 0, 0]]])
    picture = pictures.draw_merged_patches(tmp_path / "merged.png", images, groups)
    check_png(tmp_path / "merged.png", picture)
    panels = drawn[0].axes
    for image, group, axes in zip(images, groups, panels[1::2], strict=False):
        (shown,) = axes.images
        for number in np.unique(group):
            patches = np.argwhere(group == number)
            mean = np.mean([image[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] for y, x in patches], axis=(0, 1, 2))
            for y, x in patches:
                np.testing.assert_allclose(shown.get_array()[y, x], mean)
    lines = [{tuple(map(tuple, line)) for kind in axes.collections for line in kind.get_segments()} for axes in panels]
    assert lines[1] == {
        ((1.5, -0.5), (1.5, 0.5)),
        ((0.5, 0.5), (0.5, 1.5)),
        ((1.5, 0.5), (1.5, 1.5)),
        ((-0.5, 0.5), (0.5, 0.5)),
    }
    assert [len(found) for found in lines[3:6:2]] == [7, 0]
    assert [axes.get_title() for axes in panels[1:6:2]] == ["3 of 6", "6 of 6", "1 of 6"]

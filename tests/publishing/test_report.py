"""The report: one page without outside help, whose numbers and pictures are those of the models."""

import base64
import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.drawing import can_draw
from optimum_snp.publishing import pictures
from optimum_snp.publishing.report import _pixel_values, write_report
from optimum_snp.publishing.tables import EMPTY
from tests.helpers import build_source


HAS_MATPLOTLIB = can_draw()
VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and gathers what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.headings, self.rows = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("src", "href")]
        if tag == "img":
            self.images.append(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1].append(data)

    def row(self, start):
        return next(row for row in self.rows if row and row[0].startswith(start))[1:]


@pytest.fixture
def models(source, pixel_values):
    original, small = SNPPruner.from_pretrained(source), SNPPruner.from_pretrained(source)
    small.prune(SNPConfig(mlp_sparsity=0.5, qk_sparsity=0.5), calibration_dataset=pixel_values)
    return {"dense<b>": original, "small": small}


def records(pruners):
    return {name: pruner.record for name, pruner in pruners.items()}


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def test_page(models, pixel_values, tmp_path):
    accuracies = [p.evaluate(pairs(pixel_values), dataset_name="noise")["accuracy"] for p in models.values()]
    result = write_report(tmp_path / "report", records(models), original="dense<b>", images=pixel_values, num_images=2)
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert page.headings == ["dense<b>", "small"]
    assert page.row("Top-1 accuracy on noise, 6 images") == [f"{accuracy:.2%}" for accuracy in accuracies]
    plan = models["small"].pruning_plan
    assert page.row("FLOPs") == [f"{macs / 1e6:.2f} M" for macs in (plan.macs_before, plan.macs_after)]
    assert page.row("2") == ["4", "12 \N{RIGHTWARDS ARROW} 6", "12", "96 \N{RIGHTWARDS ARROW} 48"]
    assert result["models"]["small"]["macs"] == plan.macs_after
    assert result["models"]["small"]["accuracies"][0]["accuracy"] == accuracies[1]
    assert all(link.startswith("data:") for link in page.links)
    if HAS_MATPLOTLIB:
        names = ["accuracy_over_flops", "small-kept_sizes", "small-attention_spectra"]
        names += ["small-0-attention_maps", "small-1-attention_maps"]
        files = [str(tmp_path / "report" / f"{name}.png") for name in names]
        assert result["pictures"] == files
        for image, file in zip(page.images, files, strict=True):
            with open(file, "rb") as stream:
                assert base64.b64decode(image["src"].partition("base64,")[2]) == stream.read()
            assert image["alt"]


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is not installed")
def test_attention_is_compared_block_by_block_and_head_by_head(source, pixel_values, tmp_path, monkeypatch):
    """A plan drops blocks and heads: what is left is shown beside what it was."""
    original, small = SNPPruner.from_pretrained(source), SNPPruner.from_pretrained(source)
    small.prune(SNPConfig(method="snp", head_sparsity=0.5, dropped_blocks=[0]), calibration_dataset=pixel_values)
    drawn = []
    draw = pictures.draw_attention
    monkeypatch.setattr(pictures, "draw_attention", lambda *given: drawn.append(given) or draw(*given))
    models = {"dense": original.record, "small": small.record}
    write_report(tmp_path, models, original="dense", images=pixel_values, num_images=2)
    with torch.no_grad():
        images = _pixel_values(original.record, pixel_values, 2, None)
        attentions = original.model(images, output_attentions=True).attentions
    for (_, _, before, _, title, heads), block in zip(drawn, (1, 2), strict=True):
        assert heads == small.pruning_plan.blocks[block].heads
        assert title == f"attention of the class token in block {block}"
        np.testing.assert_allclose(before, attentions[block][:, heads, 0, 1:].unflatten(-1, (4, 4)), atol=1e-6)


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is not installed")
@pytest.mark.parametrize(
    "class_name", ["ViTForImageClassification", pytest.param("CLIPModel", marks=pytest.mark.slow)]
)
def test_patches_that_merged_are_shown_together(class_name, pixel_values, tmp_path, monkeypatch):
    """Patches of one group, and no others, have one state behind the last block."""
    original, small = SNPPruner(build_source(class_name)), SNPPruner(build_source(class_name))
    small.prune(SNPConfig(token_sparsity=0.5, reconstruction=False), calibration_dataset=pixel_values)
    drawn = []
    draw = pictures.draw_merged_patches
    monkeypatch.setattr(pictures, "draw_merged_patches", lambda *given: drawn.append(given) or draw(*given))
    models = {"dense": original.record, "small": small.record}
    result = write_report(tmp_path, models, original="dense", images=pixel_values, num_images=2)
    assert str(tmp_path / "small-merged_patches.png") in result["pictures"]
    ((_, _, groups),) = drawn
    vision = getattr(small.model, "vision_model", small.model.base_model)
    with torch.no_grad():
        states = vision(_pixel_values(original.record, pixel_values, 2, None)).last_hidden_state
    for group, state in zip(groups.reshape(2, -1), states[:, -groups[0].size :], strict=True):
        assert len(np.unique(group)) == group.size // 2
        together = torch.cdist(state, state, compute_mode="donot_use_mm_for_euclid_dist") == 0
        assert (together.numpy() == (group[:, None] == group)).all()


@pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is not installed")
def test_dense_numbers_of_the_pruned_model_are_a_point_of_the_trade_off(source, pixel_values, tmp_path, monkeypatch):
    pruner = SNPPruner.from_pretrained(source)
    pruner.evaluate(pairs(pixel_values))
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    pruner.evaluate(pairs(pixel_values))
    points = []
    draw = pictures.draw_trade_off
    monkeypatch.setattr(pictures, "draw_trade_off", lambda *given: points.extend(given[1]) or draw(*given))
    write_report(tmp_path, {"small": pruner.record})
    plan, (dense, small) = pruner.pruning_plan, pruner.measurements.accuracies
    pruned = ("small", plan.macs_after, small.accuracy)
    assert points == [pruned, ("dense model of small", plan.macs_before, dense.accuracy)]

    points.clear()
    original, other = SNPPruner.from_pretrained(source), SNPPruner.from_pretrained(build_source("ViTModel"))
    original.evaluate(pairs(pixel_values))
    write_report(tmp_path, records({"mine": original, "small": pruner, "not measured": other}), overwrite=True)
    assert points == [("mine", plan.macs_before, dense.accuracy), pruned]  # once


def test_a_plan_that_is_lost_leaves_the_other_numbers(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.evaluate(pairs(pixel_values))
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    pruner.evaluate(pairs(pixel_values))
    pruner.pruning_plan = None
    write_report(tmp_path, {"small": pruner.record})
    assert "No pruning of this model is recorded." in (tmp_path / "report.html").read_text()


def test_without_measurements_there_are_no_accuracies(models, tmp_path):
    result = write_report(tmp_path, records(models))
    text = (tmp_path / "report.html").read_text()
    assert "Top-1" not in text
    assert "Latency of" not in text
    assert EMPTY not in [cell for row in Page(text).rows for cell in row]
    assert not any("accuracy_over_flops" in file for file in result["pictures"])


def test_without_matplotlib_there_is_a_page_without_pictures(
    models, pixel_values, tmp_path, without_matplotlib, caplog
):
    without_matplotlib()
    result = write_report(tmp_path, records(models), original="dense<b>", images=pixel_values)
    assert result["pictures"] == []
    assert "pip install optimum-snp[plots]" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_mistakes_are_named_before_any_work(models, pixel_values, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        write_report(tmp_path / "file", records(models))
    with pytest.raises(ValueError, match="images shows the attention before and after"):
        write_report(tmp_path / "report", records(models), images=pixel_values)
    with pytest.raises(ValueError, match=r"original must be one of the models, 'dense<b>', 'small'; got 'other'"):
        write_report(tmp_path / "report", records(models), original="other")
    with pytest.raises(ValueError, match="at least one model"):
        write_report(tmp_path / "report", {})
    with pytest.raises(ValueError, match="The number of images must be from 1 to 16, got 0"):
        write_report(tmp_path / "report", records(models), num_images=0)
    with pytest.raises(ValueError, match="The number of images must be from 1 to 16, got 17"):
        write_report(tmp_path / "report", records(models), num_images=17)
    with pytest.raises(ValueError, match="no name may have a slash; got a/b"):
        write_report(tmp_path / "report", {"a/b": models["small"].record})
    other = {**models, "other": SNPPruner.from_pretrained(build_source("ViTModel", patch_size=16))}
    with pytest.raises(ValueError, match=r"patch_size of other is 16, of dense<b> 8; their attention cannot"):
        write_report(tmp_path / "report", records(other), original="dense<b>", images=pixel_values)
    assert not (tmp_path / "report").exists()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
]
# Lets the browser write into the page how far it reaches to the right, and whether all pictures are there.
PROBE = """
addEventListener("load", () => {
  const loaded = [...document.images].every(image => image.naturalWidth > 0);
  document.title = JSON.stringify([document.documentElement.scrollWidth, innerWidth, loaded]);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1000, 500])
def test_the_page_opens_in_a_browser(width, models, pixel_values, tmp_path):
    write_report(tmp_path / "report", records(models), original="dense<b>", images=pixel_values, num_images=1)
    page = tmp_path / "report" / "report.html"
    page.write_text(page.read_text().replace("</body>", f"<script>{PROBE}</script></body>"))
    process = subprocess.run(
        [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path}/profile", f"--window-size={width},800", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in process.stderr
    reach, inner, loaded = re.search(r"<title>\[(\d+),(\d+),(\w+)\]", process.stdout).groups()
    assert int(reach) <= int(inner)  # tables scroll, the page does not
    assert loaded == "true"

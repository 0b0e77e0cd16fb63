"""The code blocks of README and docs run as they stand, with small models in place of the Hub's.

The blocks of a page run in order, in one namespace and one folder; one below a comment `<!-- not run: why -->` is left
out. Blocks of bash are parsed by the command line, so that no page names an option that there is not.
"""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoBackbone

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands import build_parser
from tests.helpers import build_source


ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCK = re.compile(r"(?P<skip><!-- not run: [^>]+ -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```", re.M | re.S)

# What the pages call the Hub's models, and the small ones that stand for them.
CLASSIFIERS = (
    "facebook/deit-small-patch16-224", "facebook/deit-base-patch16-224", "deit-small", "my/classifier",
)  # fmt: skip


def blocks(page, language):
    found = BLOCK.finditer(PAGES[page].read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language and not match["skip"]]


# tests/families/test_third_party.py runs the page on families, which are there for the whole process.
PYTHON_PAGES = [page for page in PAGES if page != "families" and blocks(page, "python")]
BASH = [
    (page, command)
    for page in PAGES
    for block in blocks(page, "bash")
    for command in block.replace("\\\n", " ").splitlines()
    if "optimum-cli snp " in command
]


@pytest.fixture
def place(tmp_path, image_folder, image_processor, pixel_values, monkeypatch):
    """A folder with what the pages take for granted: images, a photo, a pruned model."""
    monkeypatch.chdir(tmp_path)
    source = build_source("ViTForImageClassification", label2id={"0": 0, "1": 1}, id2label={0: "0", 1: "1"})
    for name in CLASSIFIERS:
        folder = tmp_path / "models" / name
        source.save_pretrained(folder)
        image_processor.save_pretrained(folder)
    (tmp_path / "my").mkdir()
    image_folder.rename(tmp_path / "my" / "images")
    Image.new("RGB", (40, 30), "red").save("photo.jpg")
    pruner = SNPPruner.from_pretrained(tmp_path / "models" / "deit-small")
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    pruner.save_pretrained("small")
    return tmp_path


def in_small(code, place):
    """The code with folders in place of names of the Hub, and short trainings."""
    for name in CLASSIFIERS:
        code = code.replace(f'"{name}"', f'"{place}/models/{name}"')
    code = code.replace(
        'Processor.from_pretrained("facebook/dinov2-small"', f'Processor.from_pretrained("{place}/models/deit-small"'
    )
    code = re.sub(r'from_pretrained\("me/', 'from_pretrained("', code)
    code = code.replace("checkpoint-500", "checkpoint-2").replace("num_train_epochs=20", "max_steps=2")
    return code.replace('recipe="deit-20"', 'args=TrainingArguments("run", max_steps=2), recipe="deit-20"')


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PeftModel, of a page
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_code_of_a_page_runs(page, place, hub, pixel_values, monkeypatch):
    from transformers import TrainingArguments

    load_backbone = AutoBackbone.from_pretrained
    monkeypatch.setattr(
        AutoBackbone,
        "from_pretrained",
        lambda name, **options: build_source("Dinov2Backbone", **options) if "/" in name else load_backbone(name),
    )
    namespace = {"TrainingArguments": TrainingArguments, "pixel_values": pixel_values}
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(in_small(code, place), f"{page}, block {number}", "exec"), namespace)


@pytest.mark.parametrize(("page", "command"), BASH)
def test_commands_of_a_page_are_understood(page, command):
    words = shlex.split(command, comments=True)
    arguments = words[words.index("snp") + 1 :]
    if arguments[0].startswith("-") or "COMMAND" in arguments:
        return
    if "--help" in arguments:
        return
    args = build_parser().parse_args(arguments)
    assert callable(args.run)


def test_every_page_of_the_site_is_reached():
    listed = set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_troubleshooting_names_messages_that_there_are():
    """What a reader searches for is in the code: the fixed parts of every message of the tables."""
    sources = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "optimum_snp").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)
    page = PAGES["troubleshooting"].read_text(encoding="utf-8").partition("## Every message")[0]
    messages = [
        message for row in re.findall(r"^\| (`.*?) \|", page, re.M) for message in re.findall(r"`([^`]{12,})`", row)
    ]
    assert len(messages) > 10
    for message in messages:
        for part in re.split(r"…|'[^']*'|\b\d+\b|\bN\b|, the|times|mlp_sparsity", message):
            part = part.strip(" :,")
            assert len(part) < 8 or part in sources, f"{message!r}: {part!r} is nowhere in the code"

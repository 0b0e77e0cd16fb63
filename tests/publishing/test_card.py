"""The card says what is true of these weights, and keeps what a person wrote."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import SwinBackbone, SwinConfig

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.presets import PRESETS
from optimum_snp.publishing.card import BEGIN, END, write_card
from optimum_snp.publishing.tables import EMPTY
from optimum_snp.record.measurements import Stage
from optimum_snp.record.origin import Origin
from tests.helpers import build_source, run_python


CONFIG = SNPConfig(mlp_sparsity=0.5, qk_sparsity=0.25, hidden_sparsity=0.25)


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def prune(class_name, pixel_values, config=CONFIG, **options):
    pruner = SNPPruner.from_pretrained(build_source(class_name), **options)
    pruner.prune(config, calibration_dataset=pixel_values)
    return pruner


@pytest.fixture
def pruner(pixel_values, image_processor):
    return prune("ViTForImageClassification", pixel_values, image_processor=image_processor)


def card_of(pruner, folder, **options):
    folder.mkdir(exist_ok=True)
    write_card(folder, pruner.record, **options)
    return ModelCard.load(folder / "README.md")


def rows_of(card):
    """The tables of a card: the first cell of every row, and the others."""
    lines = [line for line in card.text.splitlines() if line.startswith("|")]
    return {
        cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in (line[1:-1].split("|") for line in lines)
    }


def test_metadata(pruner, pixel_values, tmp_path):
    pruner.origin = Origin("google/vit-base", license={"license": "apache-2.0"})
    pruner.evaluate(pairs(pixel_values), dataset_name="Random Images")
    metadata = card_of(pruner, tmp_path, repo_id="me/small-vit").data.to_dict()
    index = metadata.pop("model-index")
    assert metadata == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "base_model": "google/vit-base",
        "tags": ["pruned", "snp", "structured-pruning", "vit"],
        "metrics": ["accuracy"],
    }
    accuracy = pruner.measurements.accuracies[0].accuracy
    assert index[0]["name"] == "small-vit"
    assert index[0]["results"][0]["dataset"] == {"type": "random-images", "name": "Random Images"}
    assert index[0]["results"][0]["metrics"][0] == {
        "type": "accuracy",
        "value": round(accuracy, 6),
        "name": "Top-1 accuracy",
    }


@pytest.mark.parametrize(
    ("class_name", "family", "task"),
    [
        ("ViTModel", "vit", "image-feature-extraction"),
        ("DeiTModel", "deit", "image-feature-extraction"),
        ("DeiTForImageClassificationWithTeacher", "deit", "image-classification"),
    ],
)
def test_family_and_task(class_name, family, task, pixel_values, tmp_path):
    card = card_of(prune(class_name, pixel_values), tmp_path)
    assert card.data.tags[-1] == family
    assert card.data.pipeline_tag == task


def test_what_nobody_measured_does_not_appear(pruner, tmp_path):
    card = card_of(pruner, tmp_path)
    assert not {"model-index", "metrics", "datasets", "license", "base_model"} & card.data.to_dict().keys()
    names = " ".join(rows_of(card))
    assert "accuracy" not in names.lower()
    assert "latency" not in names.lower()
    assert "The accuracy of these weights was not measured" in card.text


def test_table_before_and_after(pruner, pixel_values, tmp_path):
    pruner.evaluate(pairs(pixel_values), dataset_name="noise|<b>\nfield")
    pruner.measure_latency(build_source("ViTForImageClassification"), num_runs=2)
    plan = pruner.pruning_plan
    rows = rows_of(card_of(pruner, tmp_path))
    assert rows[""] == ["dense", "pruned (this model)"]
    accuracy = pruner.measurements.accuracies[0].accuracy
    assert rows["Top-1 accuracy on noiseb field, 6 images"] == [EMPTY, f"{accuracy:.2%}"]
    flops = [f"{macs / 1e6:.2f} M" for macs in (plan.macs_before, plan.macs_after)]
    assert next(cells for name, cells in rows.items() if name.startswith("FLOPs of one image")) == flops
    assert rows["Parameters"][1] == f"{sum(p.numel() for p in pruner.model.parameters()) / 1e3:.2f} k"
    [latency] = [cells for name, cells in rows.items() if name.startswith("Latency of 1 image, median (")]
    assert all(re.fullmatch(r"\d+\.\d\d ms", cell) for cell in latency)
    assert rows["1"] == ["4", "12 → 9", "12", "96 → 48"]


def test_size_of_the_weights_is_that_of_the_file(pruner, tmp_path):
    pruner.save_pretrained(tmp_path / "model")
    stated = rows_of(ModelCard.load(tmp_path / "model" / "README.md"))["Size of the weights (float32)"][1]
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    header = 8 + int.from_bytes((tmp_path / "model" / "model.safetensors").read_bytes()[:8], "little")
    assert stated == f"{(size - header) / 1e6:.2f} MB"


def test_both_steps_are_shown(pruner, pixel_values, tmp_path):
    pruner.evaluate(pairs(pixel_values))
    pruner.prune(SNPConfig(method="snp", mlp_sparsity=0.5), calibration_dataset=pixel_values)
    card = card_of(pruner, tmp_path)
    rows = rows_of(card)
    assert rows[""] == ["dense", "pruned, step 1", "pruned, step 2 (this model)"]
    assert rows["Top-1 accuracy on 6 images"][::2] == [EMPTY, EMPTY]
    assert rows["0"][3] == "96 → 24"
    assert "**Step 1.** Method `projection`" in card.text
    assert "**Step 2.** Method `snp`" in card.text


def test_width_of_a_bare_model_is_rotated(pixel_values, tmp_path):
    assert "`last_hidden_state` is rotated" in card_of(prune("ViTModel", pixel_values), tmp_path).text
    not_rotated = prune("ViTModel", pixel_values, SNPConfig(mlp_sparsity=0.5))
    assert "rotated" not in card_of(not_rotated, tmp_path).text


def test_a_model_without_plan_says_so(source, tmp_path):
    card = card_of(SNPPruner.from_pretrained(source), tmp_path)
    assert "No pruning of it is recorded." in card.text
    assert "pruned" not in card.data.tags
    assert not (tmp_path / "pictures").exists()


def test_weights_that_changed_may_have_been_trained(pruner, tmp_path):
    assert "not fine-tuned" in card_of(pruner, tmp_path).text
    pruner.save_pretrained(tmp_path / "model")
    again = SNPPruner.from_pretrained(tmp_path / "model")
    assert "not fine-tuned" in card_of(again, tmp_path).text
    again.model.classifier.bias.data += 1  # as a Trainer of one's own does
    assert "not fine-tuned" not in card_of(again, tmp_path).text


def test_grey_images_and_backbones_are_loaded_as_they_can_be(pixel_values, image_processor, tmp_path):
    source = build_source("ViTForImageClassification", num_channels=1)
    assert 'convert("L")' in card_of(SNPPruner(source, image_processor), tmp_path).text
    backbone = SNPPruner(build_source("SwinBackbone"))
    assert "Put the id of the repository" in card_of(backbone, tmp_path).text
    assert "Put the id of the repository" not in card_of(backbone, tmp_path, repo_id="me/small").text


def test_the_code_of_the_card_runs(pixel_values, image_processor, tmp_path):
    pruners = {
        "classifier": prune("ViTForImageClassification", pixel_values, image_processor=image_processor),
        "bare": prune("ViTModel", pixel_values),
    }
    for name, pruner in pruners.items():
        folder = tmp_path / name
        pruner.save_pretrained(folder)
        [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        (folder / "example.py").write_text(code)
        Image.new("RGB", (40, 30)).save(folder / "image.png")
    script = """
import os, sys
sys.modules["optimum_snp"] = None
for folder in sys.argv[1:]:
    os.chdir(folder)
    exec(open("example.py").read(), {})
"""
    printed = run_python(script, *(tmp_path / name for name in pruners))
    assert "LABEL_" in printed
    assert "torch.Size([1, 17, 36])" in printed


def test_the_installed_package_has_its_template(tmp_path):
    """From elsewhere, so that it is not the checkout that is imported; `make test` installs a wheel."""
    script = """
import sys
from optimum_snp import SNPPruner
from transformers import ViTConfig, ViTModel

config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
SNPPruner.from_pretrained(ViTModel(config)).save_pretrained(sys.argv[1])
"""
    run_python(script, tmp_path / "model")
    assert "No pruning of it is recorded." in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("preset", PRESETS)
def test_example_cards_of_the_presets(preset):
    folder = Path(__file__).parents[2] / "model_cards" / preset
    card = ModelCard.load(folder / "README.md")
    assert "model-index" not in card.data.to_dict()  # nobody measured anything
    assert [name for name in rows_of(card) if "accuracy" in name] == ["Top-1 accuracy, the paper's"]
    remaining = float(preset.split("-")[-1].removesuffix("g"))
    flops = next(cells for name, cells in rows_of(card).items() if name.startswith("FLOPs"))
    assert float(flops[1].removesuffix(" G")) == pytest.approx(remaining, abs=0.1)
    for picture in re.findall(r"\]\((pictures/.*?)\)", card.text):
        assert (folder / picture).is_file()


def test_what_a_person_wrote_stays(pruner, pixel_values, tmp_path):
    pruner.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "README.md"
    text = path.read_text()
    text = text.replace("---\n", "---\nlicense: mit\nlanguage: en\n", 1).replace("- vit\n", "- vit\n- mine\n")
    text = text.replace(BEGIN, f"I wrote this.\n\n{BEGIN}") + "\nAnd this.\n"
    path.write_text(text.replace("## Limits", "## Limits that I changed"))
    pruner.origin = replace(pruner.origin, license={"license": "apache-2.0"})
    pruner.evaluate(pairs(pixel_values), dataset_name="digits")
    pruner.save_pretrained(tmp_path / "model", overwrite=True)
    card = ModelCard.load(path)
    assert card.data.license == "mit"
    assert card.data.language == "en"
    assert card.data.tags == ["pruned", "snp", "structured-pruning", "vit", "mine"]
    assert card.data.eval_results[0].metric_value == round(pruner.measurements.accuracies[0].accuracy, 6)
    assert card.text.index("I wrote this.") < card.text.index(BEGIN) < card.text.index(END)
    assert card.text.index(END) < card.text.index("And this.")
    assert "that I changed" not in card.text  # between the markers it is ours
    assert card.text.count(BEGIN) == card.text.count(END) == card.text.count("# Pruned ViT") == 1


def test_a_model_from_another_source_brings_its_license(pruner, tmp_path):
    """Of the card before a person's fields stay, but not what it said of another source."""
    previous = "---\nlicense: mit\nbase_model: {}\nlanguage: en\n---\n# Mine\n"
    pruner.origin = Origin("them/two", license={"license": "other", "license_name": "theirs"})
    card = card_of(pruner, tmp_path, previous=previous.format("them/one"))
    assert (card.data.base_model, card.data.license, card.data.license_name) == ("them/two", "other", "theirs")
    assert card.data.language == "en"
    pruner.origin = Origin("them/two")  # whose license nobody knows
    assert card_of(pruner, tmp_path, previous=previous.format("them/one")).data.license is None
    assert card_of(pruner, tmp_path, previous=previous.format("them/two")).data.license == "mit"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("datasets:\n- name: x\n", {"datasets": [{"name": "x"}]}),
        ("tags:\n- mine\n- null\n", {"tags": ["pruned", "snp", "structured-pruning", "vit", "mine"]}),
        ("model_name: theirs\n", {}),
        ("eval_results: 3\n", {}),
    ],
)
def test_strange_metadata_stop_no_save(field, expected, pruner, tmp_path):
    metadata = card_of(pruner, tmp_path, previous=f"---\n{field}---\n# Mine\n").data.to_dict()
    ours = card_of(pruner, tmp_path).data.to_dict()
    assert metadata == {**ours, **expected}


def test_names_of_others_are_text(pruner, tmp_path):
    pruner.origin = Origin(base_model="one](http://two) <script>\n# three")
    assert "\none(http://two) script # three with " in card_of(pruner, tmp_path).text


def test_saving_again_changes_nothing(pruner, tmp_path):
    pruner.save_pretrained(tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    again = SNPPruner.from_pretrained(tmp_path / "model")
    again.save_pretrained(tmp_path / "model", overwrite=True)
    after = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert sorted(before) == sorted(after)
    for name in ("README.md", "snp_measurements.json", "pruning_plan.json", "pictures/kept_sizes.png"):
        if (tmp_path / "model" / name).exists():
            assert before[tmp_path / "model" / name] == after[tmp_path / "model" / name]


def test_numbers_of_other_weights_leave_the_card(pruner, pixel_values, tmp_path):
    pruner.evaluate(pairs(pixel_values), dataset_name="digits")
    pruner.save_pretrained(tmp_path / "model")
    assert ModelCard.load(tmp_path / "model" / "README.md").data.eval_results
    pruner.model.classifier.bias.data += 1
    pruner.save_pretrained(tmp_path / "model", overwrite=True)
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.eval_results is None
    assert "Top-1" not in card.text


@pytest.mark.parametrize(
    "previous",
    [
        "# All mine\n\nNothing generated.",
        "---\nlicense: mit\n---\n# All mine\n",
        "---\nlicense: [mit\n---\n# All mine\n",
        "---\n- a list\n---\n# All mine\n",
        f"---\nlicense: mit\n---\n# All mine\n{BEGIN}\nthe end is missing",
        f"# All mine\n{END}\n{BEGIN}\n",
    ],
)
def test_cards_without_our_part_get_it_below(previous, pruner, tmp_path):
    card = card_of(pruner, tmp_path, previous=previous)
    assert card.text.index("# All mine") < card.text.index(BEGIN) < card.text.index(END)
    assert card.text.count(BEGIN) == card.text.count(END) == 1
    assert card.data.library_name == "transformers"
    assert card.data.get("license") == ("mit" if "license: mit" in previous else None)
    assert card.text.startswith(("#", "\n#"))


def test_without_matplotlib_there_is_a_card_without_pictures(pruner, tmp_path, without_matplotlib, caplog):
    pruner.save_pretrained(tmp_path / "model")
    without_matplotlib()
    pruner.save_pretrained(tmp_path / "model", overwrite=True)
    assert "pip install optimum-snp[plots]" in caplog.text
    assert "](pictures/" not in (tmp_path / "model" / "README.md").read_text()
    assert not (tmp_path / "model" / "pictures").exists()  # no old ones, either


def test_pictures_of_a_person_stay(pruner, tmp_path):
    pruner.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "pictures").mkdir(exist_ok=True)  # there already with matplotlib
    (tmp_path / "model" / "pictures" / "mine.png").write_text("mine")
    (tmp_path / "model" / "pictures" / "kept_sizes.png").write_text("old")
    pruner.save_pretrained(tmp_path / "model", overwrite=True)
    assert (tmp_path / "model" / "pictures" / "mine.png").read_text() == "mine"
    assert (tmp_path / "model" / "pictures" / "kept_sizes.png").read_bytes() != b"old"


def test_a_card_names_no_path_of_this_machine(pixel_values, image_processor, tmp_path):
    build_source("ViTForImageClassification").save_pretrained(tmp_path / "secret-place")
    pruner = SNPPruner.from_pretrained(tmp_path / "secret-place", image_processor=image_processor)
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "model").glob("*.*"):
        if path.suffix in (".md", ".json"):
            assert "secret-place" not in path.read_text()
    assert str(tmp_path) not in (tmp_path / "model" / "README.md").read_text()


def test_license_and_base_come_from_the_card_of_a_folder(pixel_values, tmp_path):
    build_source("ViTForImageClassification").save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "README.md").write_text(
        "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\nbase_model: google/vit\n---\n"
    )
    pruner = SNPPruner.from_pretrained(tmp_path / "dense")
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path / "model")
    metadata = ModelCard.load(tmp_path / "model" / "README.md").data
    assert (metadata.license, metadata.license_name, metadata.license_link) == ("other", "mine", "LICENSE")
    assert metadata.base_model == "google/vit"
    assert SNPPruner.from_pretrained(tmp_path / "model").origin.base_model == "google/vit"


def test_a_broken_card_of_the_source_says_nothing(tmp_path):
    build_source("ViTModel").save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "README.md").write_bytes(b"---\nlicense: [\n---\n\xff")
    assert SNPPruner.from_pretrained(tmp_path / "dense").origin == Origin()


def test_a_model_that_was_never_loaded_has_no_origin(source, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nOf something else.")
    monkeypatch.chdir(tmp_path)
    assert SNPPruner.from_pretrained(source).origin == Origin()


def test_a_model_is_not_its_own_base():
    origin = Origin("me/small", base_model="google/vit")
    assert origin.base_of("me/small") == "google/vit"
    assert origin.base_of("me/smaller") == origin.base_of(None) == "me/small"


def test_measurements_and_plan_agree_on_the_step(pruner):
    assert pruner.measurements.stage == Stage(len(pruner.pruning_plan.steps), "pruned")


def test_swin(pixel_values, tmp_path):
    sizes = {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "image_size": 32, "patch_size": 2}
    config = SwinConfig(**sizes, window_size=4, out_features=["stage1", "stage2"])
    pruner = SNPPruner.from_pretrained(SwinBackbone(config).eval())
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    card = card_of(pruner, tmp_path)
    assert card.data.tags[-1] == "swin"
    assert card.data.pipeline_tag == "image-feature-extraction"
    rows = rows_of(card)
    assert [name for name in rows if re.fullmatch(r"\d\.\d", name)] == ["0.0", "1.0", "1.1"]
    assert "Width of the residual stream by stage: 8 \N{RIGHTWARDS ARROW} 6, 16 \N{RIGHTWARDS ARROW} 12." in card.text
    assert "AutoBackbone.from_pretrained" in card.text

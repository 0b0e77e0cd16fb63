"""What the command line says and takes of classes, folders and images."""

import json

import pytest

from optimum_snp import SNPPruner
from optimum_snp.commands import main
from tests.data import perfect


GERMAN = {"rot": "red", "grün": "green", "blau": "blue", "dunkelrot": "dark red"}


@pytest.fixture
def model(tmp_path):
    """The perfect model, saved."""
    SNPPruner(perfect.model(), perfect.processor()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def folder(tmp_path):
    """Two images of each colour in folders with German names."""
    for name, colour in GERMAN.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for seed in range(2):
            perfect.image_of(colour, seed).save(tmp_path / "images" / name / f"{seed}.png")
    return tmp_path / "images"


def run(capsys, *arguments):
    main([*map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("form", ["text", "file"])
def test_label_map(form, model, folder, tmp_path, capsys):
    label_map = json.dumps(GERMAN)
    if form == "file":
        (tmp_path / "map.json").write_text(label_map, encoding="utf-8")
        label_map = tmp_path / "map.json"
    result = run(capsys, "evaluate", model, "--dataset", folder, "--label-map", label_map, "--num-workers", 2)
    assert result == {"accuracy": 1.0, "top5_accuracy": 1.0, "num_images": 8}
    training = ("--train-dataset", folder, "--eval-dataset", folder, "--max-steps", 2, "--output", tmp_path / "out")
    assert run(capsys, "finetune", model, *training, "--label-map", label_map)["accuracy"] == 1.0


def test_classes_that_cannot_be_told_end_with_a_message(model, folder):
    with pytest.raises(
        SystemExit, match="error: The dataset has 4 classes, of which the model with its 4 does not know"
    ):
        main(["evaluate", str(model), "--dataset", str(folder)])


@pytest.mark.parametrize("text", ["no file", '{"a": [1]}', "{", '["a"]'])
def test_label_maps_that_are_none(text, model, folder, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(model), "--dataset", str(folder), "--label-map", text])
    assert "--label-map: " in capsys.readouterr().err


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_damaged_files_are_named_without_a_traceback(num_workers, model, folder, tmp_path, capsys):
    label_map = json.dumps(GERMAN)
    damaged = folder / "blau" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    options = ["--dataset", str(folder), "--num-workers", num_workers]
    prune = ["prune", str(model), *options, "--mlp-sparsity", "0.5", "--output", str(tmp_path / "small")]
    for command in (["evaluate", str(model), *options, "--label-map", label_map], prune):
        with pytest.raises(SystemExit) as caught:
            main(command)
        message = str(caught.value)
        assert message.startswith("error: Image 1 of the dataset (")
        assert f"({damaged}) cannot be read" in message
        assert "Traceback" not in message
    evaluated = run(capsys, *command_of(model, options, label_map), "--skip-unreadable")
    assert evaluated == {"accuracy": 1.0, "top5_accuracy": 1.0, "num_images": 7}
    assert run(capsys, *prune, "--skip-unreadable")["output"] == str(tmp_path / "small")


def command_of(model, options, label_map):
    return "evaluate", model, *options, "--label-map", label_map


def test_every_folder_says_what_was_read(model, folder, caplog, capsys):
    run(capsys, "evaluate", model, "--dataset", folder, "--label-map", json.dumps(GERMAN))
    said = [message for message in caplog.messages if str(folder) in message]
    assert said == [f"{folder}: 8 images of 4 classes in split 'train'."]

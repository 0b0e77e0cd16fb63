"""What is for the user to mend is told in one line; a fault of ours, and all with --debug, with its traceback."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import DeiTImageProcessorPil

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands import COMMANDS, main
from tests.helpers import build_source


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A dense model of transformers, and one that this library pruned from it."""
    folder = tmp_path_factory.mktemp("saved")
    processor = DeiTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pruner = SNPPruner(build_source("ViTForImageClassification"), processor)
    build_source("ViTForImageClassification").save_pretrained(folder / "dense")
    processor.save_pretrained(folder / "dense")
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=images)
    pruner.save_pretrained(folder / "small")
    return folder


@pytest.fixture
def model(saved, tmp_path):
    """A dense model of transformers."""
    return shutil.copytree(saved / "dense", tmp_path / "dense")


@pytest.fixture
def small(saved, tmp_path):
    """A model that this library pruned."""
    return shutil.copytree(saved / "small", tmp_path / "small")


def message_of(*arguments):
    """What a command says that fails: one line."""
    with pytest.raises(SystemExit) as failure:
        main([str(argument) for argument in arguments])
    assert str(failure.value).startswith("error: ")
    return str(failure.value)


def evaluate(model, images):
    return message_of("evaluate", model, "--dataset", images)


def fail(monkeypatch, error):
    """Lets `report` run into an error that is none of the package's own."""

    def run(_args):
        return error()

    monkeypatch.setattr(COMMANDS["report"], "run", run)
    return ["report", "model", "--output", "out"]


@pytest.mark.parametrize(
    "error", [lambda: None + 1, lambda: int("a"), lambda: {}["a"], lambda: torch.zeros(2) @ torch.zeros(3)]
)
def test_faults_of_ours_show_where_they_are(error, monkeypatch):
    with pytest.raises((TypeError, ValueError, KeyError, RuntimeError)):
        main(fail(monkeypatch, error))


def test_a_value_error_that_arises_in_the_package_is_a_fault_of_ours(monkeypatch, tmp_path):
    monkeypatch.setattr("optimum_snp.commands.report.short_names", lambda names: int("a"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["report", "model", "--output", str(tmp_path / "out")])


def test_what_the_package_raises_is_for_the_user():
    assert "from 1 to 16, got 0" in message_of("report", "model", "--output", "out", "--num-images", 0)


def test_debug_shows_all():
    with pytest.raises(ValueError, match="from 1 to 16, got 0"):
        main(["report", "model", "--output", "out", "--num-images", "0", "--debug"])


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        main(fail(monkeypatch, interrupt))
    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_truncated_weights(model, image_folder):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "model.safetensors is not whole" in evaluate(model, image_folder)


def test_a_pointer_of_git_lfs(model, image_folder):
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is a pointer of Git LFS, not the file that it stands for. Get that with `git lfs pull`" in evaluate(
        model, image_folder
    )


def test_pickled_weights_alone(model, image_folder):
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    message = evaluate(model, image_folder)
    assert "holds pickled weights only" in message
    assert "weights_only" not in message and "safetensors=False" not in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": 60}, "does not fit its weights"),
        ({"intermediate_size": 97}, "does not fit its weights"),
        ({"hidden_act": "gleu"}, "that can be built: KeyError: 'gleu'"),
        ({"hidden_act": None}, "hidden_act"),
        ({"hidden_size": "many"}, "dense"),
        ({"qkv_bias": False}, "has no place for"),
        ({"num_hidden_layers": 2}, "has no place for"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, which no model has"),
        ({"num_labels": 10**9}, "num_labels is 1000000000, which no model has"),
        ({"num_attention_heads": 3 * 10**8}, "num_attention_heads is 300000000, which no model has"),
        ({"intermediate_size": 10**8}, "describes a model of"),
        ({"image_size": 10**7}, "describes a model of"),
        ({"patch_size": 0}, "patch_size is 0, and must be positive"),
        ({"num_attention_heads": -4}, "num_attention_heads is -4, and must be positive"),
        ({"architectures": "ViTModel"}, "architectures must be a list of names"),
    ],
)
def test_configs_that_do_not_fit(change, expected, model, image_folder):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert expected in evaluate(model, image_folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_size": 0}, "image_size is 0, and must be positive"),
        ({"image_size": [32, -4]}, "image_size is -4, and must be positive"),
        ({"window_size": 0}, "window_size is 0, and must be positive"),
        ({"image_size": 10_000}, "For images of 10000 pixels this model would hold"),  # only masks are as large
    ],
)
def test_sizes_of_a_swin_that_no_weight_tells(change, expected, image_folder, tmp_path, image_processor):
    build_source("SwinForImageClassification").save_pretrained(tmp_path / "swin")
    image_processor.save_pretrained(tmp_path / "swin")
    path = tmp_path / "swin" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert expected in evaluate(tmp_path / "swin", image_folder)


def test_a_pruned_swin_for_images_far_too_large(image_folder, tmp_path, image_processor):
    SNPPruner(build_source("SwinForImageClassification"), image_processor).save_pretrained(tmp_path / "swin")
    path = tmp_path / "swin" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_size": 10_000}))
    assert (
        "config.json" in (message := evaluate(tmp_path / "swin", image_folder)) and "describes a model of" in message
    )


@pytest.mark.parametrize(
    "name", ["config.json", "pruning_plan.json", "snp_measurements.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize("text", ["[]", "null", "", "{", "[" * 100_000, '"a"', b"\xff\xfe"])
def test_json_files_that_hold_something_else(name, text, small, image_folder):
    (small / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    message = evaluate(small, image_folder)
    assert name in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["pruning_plan.json", "snp_measurements.json"])
def test_json_files_without_fields(name, small, image_folder):
    values = json.loads((small / name).read_text())
    for field in ("widths", "blocks", "config", "stage", "accuracies", "spectra"):
        if field in values:
            (small / name).write_text(json.dumps({key: value for key, value in values.items() if key != field}))
            message = evaluate(small, image_folder)
            assert name in message and field in message


@pytest.mark.parametrize("text", ["[]", "null", "", '{"mlp_sparsity": "half"}', '{"mlp_sparsity": [[[1]]]}'])
def test_recipes_that_cannot_be_read(text, model, image_folder, tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "snp_config.json").write_text(text)
    options = ["--dataset", image_folder, "--output", tmp_path / "out", "--config", tmp_path / "recipe"]
    assert "snp_config.json" in message_of("prune", model, *options)


def test_a_plan_of_another_model(small, image_folder):
    plan = json.loads((small / "pruning_plan.json").read_text())
    plan["widths"][0] |= {"after": 40, "kept": list(range(40))}
    (small / "pruning_plan.json").write_text(json.dumps(plan))
    assert "is that of another model" in evaluate(small, image_folder)


def test_a_plan_with_heads_beyond_all_models(small, image_folder):
    """The heads of plans that do not list them are counted off, which took 8.6 GB for so many."""
    plan = json.loads((small / "pruning_plan.json").read_text())
    for block in plan["blocks"]:
        del block["heads"]
        block["before"]["num_attention_heads"] = 3 * 10**8
    (small / "pruning_plan.json").write_text(json.dumps(plan))
    assert "has 300000000 heads; at most 4096 can be" in evaluate(small, image_folder)


def test_a_name_that_is_no_folder(hub, image_folder):
    message = evaluate("nope", image_folder)
    assert message.startswith("error: There is no folder nope, and the Hub gives no such model")


def test_an_image_beyond_all_sizes(model, image_folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = evaluate(model, image_folder)
    assert "\n" not in message and "pixels" in message


def test_a_table_among_the_images(model, image_folder):
    (image_folder / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(model), "--dataset", str(image_folder)])
        raise SystemExit("error: read")
    assert str(end.value).startswith("error: ")


@pytest.mark.parametrize("option", [("--epochs", 0), ("--epochs", -1), ("--epochs", "nan"), ("--max-steps", 0)])
def test_trainings_that_train_nothing(option, model, image_folder, tmp_path):
    where = ["--train-dataset", image_folder, "--output", tmp_path / "out"]
    assert f"{option[0]} must be above 0, got {option[1]}" in message_of("finetune", model, *where, *option)


@pytest.mark.parametrize(
    ("command", "option", "expected"),
    [
        ("prune", ("--batch-size", 0), "must be at least 1, got 0"),
        ("evaluate", ("--batch-size", -1), "must be at least 1, got -1"),
        ("report", ("--batch-size", "many"), "must be a whole number, got 'many'"),
        ("benchmark", ("--threads", 0), "must be at least 1, got 0"),
        ("finetune", ("--learning-rate", "nan"), "must be above 0 and finite, got nan"),
        ("finetune", ("--weight-decay", -1), "must be at least 0 and finite, got -1"),
        ("recover", ("--minutes", "inf"), "must be above 0 and finite, got inf"),
        ("recover", ("--seed", 2**32), "must be at least 0 and at most 4294967295, got 4294967296"),
        ("export", ("--num-samples", 0), "must be at least 1, got 0"),
        ("export", ("--opset", 0), "must be at least 1, got 0"),
        ("evaluate", ("--num-workers", -1), "must be at least 0, got -1"),
        ("benchmark", ("--num-runs", 0), "must be at least 1, got 0"),
        ("demo", ("--finetune-epochs", "half"), "must be a whole number, got 'half'"),
        ("app", ("--port", 0), "must be at least 1, got 0"),
        ("finetune", ("--temperature", 0), "must be above 0 and finite, got 0"),
        ("finetune", ("--teacher-weight", -1), "must be at least 0 and finite, got -1"),
    ],
)
def test_numbers_that_mean_nothing(command, option, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "model", *map(str, option)])
    assert end.value.code == 2
    assert f"{option[0]}: {expected}" in capsys.readouterr().err.replace("/--batch-sizes", "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ('{"learning_rate": "fast"}', "learning_rate cannot be 'fast'"),
        ('{"learning_rate": NaN}', "learning_rate cannot be nan"),
        ('{"num_train_epochs": "x"}', "num_train_epochs cannot be 'x'"),
        ('{"seed": -5}', "seed must be from 0 to 4294967295, got -5"),
        ('{"per_device_train_batch_size": 0}', "per_device_train_batch_size must be from 1"),
        ('{"gradient_accumulation_steps": 0}', "gradient_accumulation_steps must be from 1"),
        ('{"adam_beta1": 5}', "adam_beta1 must be from 0"),
        ('{"optim": "nope"}', "nope is not a valid OptimizerNames"),
    ],
)
def test_training_arguments_that_cannot_be_used(values, expected, model, image_folder, tmp_path):
    (tmp_path / "arguments.json").write_text(values)
    options = ["--train-dataset", image_folder, "--output", tmp_path / "out"]
    message = message_of("finetune", model, *options, "--training-arguments", tmp_path / "arguments.json")
    assert "These training arguments cannot be used: " in message and expected in message


@pytest.mark.parametrize("repo_id", ["a/b/c", "../x", "me/"])
def test_names_that_the_hub_cannot_have(repo_id, small):
    assert repo_id in message_of("push", small, repo_id)


def test_empty_names(model, image_folder):
    """As a variable of the shell that is not set gives them: the working directory is not meant."""
    assert "The name of the model is empty" in evaluate("", image_folder)
    assert "The name of the dataset is empty" in evaluate(model, "")


@pytest.mark.parametrize("command", ["prune", "finetune"])
def test_the_source_is_not_written_over(command, model, image_folder):
    before = {path: path.read_bytes() for path in model.iterdir()}
    images = "--dataset" if command == "prune" else "--train-dataset"
    options = [images, image_folder, "--output", model, "--overwrite"]
    options += ["--mlp-sparsity", 0.5] if command == "prune" else []
    assert "is" in (message := message_of(command, model, *options)) and "itself, which would be lost" in message
    assert {path: path.read_bytes() for path in model.iterdir()} == before


def test_places_that_cannot_be_written_are_told_before_the_work(model, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(SNPPruner, "calibrate", lambda *_, **__: pytest.fail("calibrated before"))
    options = ["--dataset", image_folder, "--mlp-sparsity", 0.5]
    assert "/proc/x cannot be written" in message_of("prune", model, *options, "--output", "/proc/x")
    where = ["--output", tmp_path / "out", "--save-statistics"]
    assert "/proc/x cannot be written" in message_of("prune", model, *options, *where, "/proc/x")
    message = message_of("benchmark", model, "--plot", "/proc/x.png")
    assert "/proc/x.png cannot be written" in message
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 10}))
    assert "are needed there, and 0 MB are free" in message_of("prune", model, *options, "--output", tmp_path / "out")


def test_what_was_computed_is_kept_when_the_disk_is_full_all_the_same(model, image_folder, tmp_path, monkeypatch):
    save = SNPPruner.save_pretrained
    full = tmp_path / "out"

    def save_unless_full(pruner, folder, **options):
        if str(folder) == str(full):
            raise OSError(28, "No space left on device")
        save(pruner, folder, **options)

    monkeypatch.setattr(SNPPruner, "save_pretrained", save_unless_full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    message = message_of("prune", model, "--dataset", image_folder, "--mlp-sparsity", 0.5, "--output", full)
    assert "No space left on device" in message
    [rescued] = tmp_path.glob("optimum-snp-rescued-*")
    assert str(rescued) in message
    assert SNPPruner.from_pretrained(rescued).pruning_plan is not None


def test_statistics_that_cannot_be_written_stop_no_pruning(model, image_folder, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optimum_snp.calibration.statistics.save_file", full)
    options = ["--dataset", image_folder, "--mlp-sparsity", "0.5", "--output", tmp_path / "out"]
    main(["prune", *map(str, [model, *options, "--save-statistics", tmp_path / "sums"])])
    assert "No space left on device. The model is pruned all the same." in caplog.text
    assert SNPPruner.from_pretrained(tmp_path / "out").pruning_plan is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "images", "out"]

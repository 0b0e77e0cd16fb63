"""`optimum-cli snp …` as a user types it, and as a script calls it."""

import shutil
import subprocess
import sys
from dataclasses import fields

import datasets
import pytest
from huggingface_hub import ModelCard, constants

from optimum_snp import DistillationConfig, Recipe, SNPConfig, SNPPruner, packages
from optimum_snp.commands import COMMANDS, build_parser, main
from optimum_snp.data import load_image_folder
from tests.commands.running import run
from tests.helpers import build_source


@pytest.mark.parametrize(("blocks", "expected"), [("1", 1), ("0,2", [0, 2]), ("1,", [1])])
def test_heads_and_blocks(blocks, expected, model, image_folder, tmp_path, capsys):
    options = ["--head-sparsity", 0.5, 0.25, 0.0, "--dropped-blocks", blocks, "--method", "snp"]
    run(capsys, "prune", model, "--dataset", image_folder, "--output", tmp_path / "small", *options, "--json")
    plan = SNPPruner.from_pretrained(tmp_path / "small").pruning_plan
    assert plan.config == SNPConfig(head_sparsity=[0.5, 0.25, 0.0], dropped_blocks=expected, method="snp")
    assert sum(block.after is None for block in plan.blocks) == (1 if blocks != "0,2" else 2)


def test_prune_for_some_classes(model, image_folder, tmp_path, capsys):
    options = ["--output", tmp_path / "small", "--mlp-sparsity", 0.5]
    run(capsys, "prune", model, "--dataset", image_folder, "--classes", 1, 0, *options, "--json")
    assert SNPPruner.from_pretrained(tmp_path / "small").model.config.num_labels == 2
    with pytest.raises(SystemExit, match="--classes chooses images to calibrate on, so it needs --dataset"):
        run(capsys, "prune", model, "--statistics", "sums", "--classes", 1, 0, *options)


@pytest.mark.slow
def test_recover(model, image_folder, tmp_path, capsys):
    small, recovered = tmp_path / "small", tmp_path / "recovered"
    run(capsys, "prune", model, "--dataset", image_folder, "--output", small, "--mlp-sparsity", 0.5, "--json")
    for number in range(10):  # ten are too few
        path = image_folder / "0" / f"{2 * (number % 5)}.png"
        path.with_name(f"copy-{number}.png").write_bytes(path.read_bytes())
    options = ["--images", image_folder, "--minutes", 0.001, "--batch-size", 8, "--learning-rate", 1e-4]
    result = run(capsys, "recover", small, "--teacher", model, "--output", recovered, *options, "--json")
    assert result["loss_after"] <= result["loss_before"]
    assert result["learning_rate"] == 1e-4
    assert SNPPruner.from_pretrained(recovered).pruning_plan.config == SNPConfig(mlp_sparsity=0.5)
    assert list((tmp_path / "recovered-checkpoints").glob("checkpoint-*"))
    with pytest.raises(SystemExit, match="Name another folder"):
        run(capsys, "recover", small, "--teacher", model, "--output", model, *options)


def test_prune_finetune_evaluate(model, image_folder, tmp_path, capsys):
    small, tuned = tmp_path / "small", tmp_path / "tuned"
    shares = ["--qk-sparsity", 0.5, 0.25, 0.0, "--mlp-sparsity", 0.5, "--round-to", 4]
    result = run(capsys, "prune", model, "--dataset", image_folder, "--output", small, *shares, "--json")
    assert result["macs_after"] < result["macs_before"]
    pruned = SNPPruner.from_pretrained(small)
    assert [block["qk_head_dim"] for block in pruned.model.config.block_configs] == [8, 8, 12]
    assert pruned.pruning_plan.config == SNPConfig(qk_sparsity=[0.5, 0.25, 0.0], mlp_sparsity=0.5, round_to=4)

    training = ["--epochs", 1, "--batch-size", 5, "--train-dataset", image_folder, "--eval-dataset", image_folder]
    result = run(capsys, "finetune", small, "--output", tuned, *training, "--json")
    assert result["train_loss"] > 0
    evaluated = run(capsys, "evaluate", tuned, "--dataset", image_folder, "--json")
    assert evaluated["num_images"] == 10
    assert evaluated["accuracy"] == result["accuracy"]

    assert not ModelCard.load(small / "README.md").data.eval_results
    pruned = run(capsys, "evaluate", small, "--dataset", image_folder, "--update-card", "--json")
    found = [result.metric_value for result in ModelCard.load(small / "README.md").data.eval_results]
    assert found == pytest.approx([pruned["accuracy"], pruned["top5_accuracy"]], abs=1e-4)
    with pytest.raises(SystemExit, match="--update-card needs a folder that this library saved"):
        run(capsys, "evaluate", model, "--dataset", image_folder, "--update-card")
    assert (tuned / "pruning_plan.json").is_file()
    assert list((tmp_path / "tuned-checkpoints").glob("checkpoint-*/modeling_snp_vit.py"))


def test_finetune_goes_on_from_its_checkpoints_or_starts(model, image_folder, tmp_path, capsys):
    options = ["--output", tmp_path / "tuned", "--train-dataset", image_folder, "--epochs", 2, "--batch-size", 5]
    run(capsys, "finetune", model, *options, "--resume", "--json")  # there is none yet
    weights = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    checkpoint = tmp_path / "tuned-checkpoints" / "checkpoint-4"
    with pytest.raises(SystemExit, match="Add --resume to go on from the last, or remove that folder"):
        run(capsys, "finetune", model, *options, "--overwrite", "--json")
    shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-5"))
    (checkpoint.with_name("checkpoint-5") / "trainer_state.json").unlink()  # killed while writing it
    shutil.rmtree(tmp_path / "tuned")
    run(capsys, "finetune", model, *options, "--resume", "--json")
    assert (tmp_path / "tuned" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"learning_rat": 1}', "other than output_dir, got 'learning_rat'"),
        ('{"output_dir": "here"}', "got 'output_dir'"),
        ("[1]", "must hold an object of fields of TrainingArguments"),
        ("[1", "is no JSON file"),
    ],
)
def test_files_that_hold_no_training_arguments(text, message, tmp_path):
    path = tmp_path / "arguments.json"
    path.write_text(text)
    options = ["--train-dataset", "none", "--output", str(tmp_path / "out"), "--training-arguments", str(path)]
    with pytest.raises(SystemExit, match=message):
        main(["finetune", "none", *options])


def test_finetune_with_recipe_and_teacher(model, image_folder, tmp_path, capsys, monkeypatch):
    seen = {}
    finetune = SNPPruner.finetune

    def remember(self, *datasets, **options):
        seen.update(options, args=datasets[2])
        return finetune(self, *datasets, **options)

    monkeypatch.setattr(SNPPruner, "finetune", remember)
    where = ["--train-dataset", image_folder, "--output", tmp_path / "tuned", "--max-steps", 2, "--batch-size", 4]
    recipe = ["--recipe", "deit-20", "--without", "mixup", "ema", "--weight-decay", 0.1]
    teacher = ["--teacher", model, "--distillation-kind", "hard", "--teacher-weight", 0.8]
    run(capsys, "finetune", model, *where, *recipe, *teacher, "--json")
    assert seen["recipe"] == Recipe.from_preset("deit-20").without("mixup", "ema")
    assert seen["distillation"] == DistillationConfig("hard", weight=0.8)
    args = seen["args"]
    assert (args.num_train_epochs, args.max_steps, args.weight_decay) == (20, 2, 0.1)
    assert args.learning_rate == pytest.approx(2.5e-4 * 4 / 512)
    with pytest.raises(SystemExit, match="no teacher; name it with --teacher"):
        run(capsys, "finetune", model, *where, "--cache-logits")
    with pytest.raises(SystemExit, match="name the recipe with --recipe"):
        run(capsys, "finetune", model, *where, "--without", "mixup")


def test_finetune_on_a_stream(model, image_folder, tmp_path, capsys, monkeypatch):
    images = load_image_folder(image_folder)
    asked = {}

    def load_dataset(name, **options):
        asked.update(options)
        return images.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    shuffled = []
    monkeypatch.setattr(
        datasets.IterableDataset, "shuffle", lambda self, seed, buffer_size: shuffled.append(seed) or self
    )
    options = ["--train-dataset", "no/such", "--streaming", "--output", tmp_path / "tuned", "--seed", 3]
    with pytest.raises(SystemExit, match="stream that does not know its length"):
        run(capsys, "finetune", model, *options)
    run(capsys, "finetune", model, *options, "--max-steps", 1, "--batch-size", 4, "--json")
    assert asked == {"split": "train", "streaming": True}
    assert shuffled == [3, 3]


def test_prune_a_swin_with_shares_by_block_and_by_stage(image_folder, image_processor, tmp_path, capsys):
    folder, small = tmp_path / "dense", tmp_path / "small"
    build_source("SwinForImageClassification").save_pretrained(folder)
    image_processor.save_pretrained(folder)
    options = ["--dataset", image_folder, "--output", small, "--json"]
    shares = ["--qk-sparsity", 0.5, 0.25, 0.0, 0.5, 0.75, "--mlp-sparsity", 0.5, "--hidden-sparsity", 0.25, 0.5]
    result = run(capsys, "prune", folder, *options, *shares)
    pruned = SNPPruner.from_pretrained(small)
    config = pruned.model.config
    assert [[block["qk_head_dim"] for block in stage] for stage in config.block_configs] == [[6, 9], [12, 6, 3]]
    assert config.hidden_sizes == [9, 12]
    assert result["parameters_after"] == sum(parameter.numel() for parameter in pruned.model.parameters())
    assert pruned.pruning_plan.config.hidden_sparsity == [0.25, 0.5]
    assert run(capsys, "evaluate", small, "--dataset", image_folder, "--json")["num_images"] == 10
    with pytest.raises(SystemExit, match="--hidden-sparsity has 3 shares, but the model has 2 stages"):
        run(capsys, "prune", folder, *options, "--overwrite", "--hidden-sparsity", 0.1, 0.1, 0.1)


def test_prune_within_a_latency(model, image_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    where = ["--dataset", image_folder, "--output", tmp_path / "small"]
    options = ["--latency-batch-size", 2, "--latency-backend", "eager", "--latency-threads", 1]
    result = run(capsys, "prune", model, *where, "--target-latency", 1.0, *options, "--json")
    plan = SNPPruner.from_pretrained(tmp_path / "small").pruning_plan
    assert result["latency"] == plan.latency
    assert (plan.latency["asked"], plan.latency["batch_size"], plan.latency["threads"]) == (1.0, 2, 1)
    assert list((tmp_path / "cache" / "optimum_snp" / "latency").glob("*.json"))


def test_a_missing_package_is_a_message(model, image_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(packages._PACKAGES, "onnx", ("no_such_package",))
    where = ["--dataset", str(image_folder), "--output", str(tmp_path / "small")]
    with pytest.raises(SystemExit, match=r"error: ONNX needs no_such_package: pip install 'optimum-snp\[onnx\]'"):
        main(["prune", str(model), *where, "--target-latency", "0.5", "--latency-backend", "onnxruntime"])


def test_export(model, image_folder, tmp_path, capsys):
    output = tmp_path / "exported"
    options = ["--format", "openvino", "--dtype", "int8", "--calibration-dataset", image_folder, "--num-samples", 8]
    result = run(capsys, "export", model, "--output", output, *options, "--json")
    assert (result["format"], result["dtype"], result["check"]["num_images"]) == ("openvino", "int8", 8)
    assert result["bytes"] == sum((output / f"openvino_model.{kind}").stat().st_size for kind in ("xml", "bin"))
    assert (output / "preprocessor_config.json").is_file()


def test_export_names_its_mistakes_before_loading(tmp_path):
    with pytest.raises(SystemExit, match="Pass a --calibration-dataset"):
        main(["export", "/no/model", "--dtype", "int8", "--output", str(tmp_path / "out")])


def test_benchmark(model, tmp_path, capsys):
    options = ["--batch-sizes", 1, 2, "--num-runs", 2, "--no-memory", "--plot", tmp_path / "speed.png"]
    result = run(capsys, "benchmark", model, model, *options, "--json")
    assert [(row["model"], row["backend"], row["batch_size"]) for row in result["rows"]] == [
        ("dense", "eager", 1), ("dense", "eager", 2),
    ]  # fmt: skip
    assert result["rows"][0]["speed_up"] == 1 and result["rows"][0]["peak_memory"] is None
    assert (tmp_path / "speed.png").is_file()
    with pytest.raises(SystemExit, match=r"name a .png, .svg or .pdf file"):
        main(["benchmark", "/no/model", "--plot", str(tmp_path / "speed.xls")])


def test_report(model, image_folder, tmp_path, capsys):
    small = tmp_path / "small"
    options = ["--dataset", image_folder, "--output", small, "--mlp-sparsity", 0.5, "--json"]
    run(capsys, "prune", model, *options)
    evaluate = ["--evaluate", image_folder]
    result = run(
        capsys, "report", small, model, "--original", model, "--images", image_folder, "--num-images", 2, *evaluate,
        "--output", tmp_path / "report", "--json",
    )  # fmt: skip
    assert list(result["models"]) == ["dense", "small"]
    for name, folder in (("dense", model), ("small", small)):
        expected = run(capsys, "evaluate", folder, "--dataset", image_folder, "--json")["accuracy"]
        [number] = result["models"][name]["accuracies"]
        assert (number["accuracy"], number["dataset"], number["num_images"]) == (expected, "images", 10)
    assert "images, 10 images" in (tmp_path / "report" / "report.html").read_text()


def test_report_names_its_mistakes_before_loading(image_folder, tmp_path):
    with pytest.raises(SystemExit, match="Name the original with --original"):
        main(["report", "/no/model", "--images", str(image_folder), "--output", str(tmp_path / "report")])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match=r"is a file. Name a folder to write to"):
        main(["report", "/no/model", "--output", str(tmp_path / "file")])


def test_the_card_says_what_finetune_measured(model, image_folder, tmp_path, capsys):
    tuned = tmp_path / "tuned"
    images = ["--train-dataset", image_folder, "--eval-dataset", image_folder]
    result = run(capsys, "finetune", model, "--epochs", 1, *images, "--output", tuned, "--json")
    [number, _] = ModelCard.load(tuned / "README.md").data.eval_results
    assert number.metric_value == pytest.approx(result["accuracy"], abs=1e-6)
    assert number.dataset_name == "images"


def test_statistics_serve_a_second_plan(model, image_folder, tmp_path, capsys):
    first, second, statistics = tmp_path / "first", tmp_path / "second", tmp_path / "statistics.safetensors"
    # The same closed form; images could do more.
    options = ["--qk-sparsity", 0.5, "--no-reconstruction", "--json", "--output"]
    run(capsys, "prune", model, "--dataset", image_folder, "--save-statistics", statistics, *options, first)
    run(capsys, "prune", model, "--statistics", statistics, *options, second)
    for name in ("model.safetensors", "pruning_plan.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    config = tmp_path / "third"
    run(capsys, "prune", model, "--statistics", statistics, "--config", first, "--json", "--output", config)
    assert (first / "model.safetensors").read_bytes() == (config / "model.safetensors").read_bytes()


def test_text_output_is_the_plan(model, image_folder, tmp_path, capsys):
    output = tmp_path / "small"
    main(["prune", str(model), "--dataset", str(image_folder), "--output", str(output), "--v-sparsity", "0.5"])
    text = capsys.readouterr().out
    assert "12 -> 6" in text
    assert f"Saved in {output}" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mlp-sparsity", "1.5"], "--mlp-sparsity must be a share in [0, 1), got 1.5"),
        (["--mlp-sparsity", "0.5", "0.5"], "--mlp-sparsity has 2 shares, but the model has 3 blocks"),
        ([], "Say what to remove"),
        (["--dropped-blocks", "3"], "--dropped-blocks is 3, but only 2 of the 3 blocks can go"),
        (["--dropped-blocks", "0,1,2"], "--dropped-blocks leaves no block of the model"),
        (["--preset", "deit-small-2.0g"], "--qk-sparsity has 12 shares, but the model has 3 blocks"),
        (["--mlp-sparsity", "0.5", "--num-calibration-samples", "0"], "--num-calibration-samples must be a positive"),
        (["--mlp-sparsity", "0.5", "--dataset", "/no/such/folder"], "/no/such/folder"),
        (["--mlp-sparsity", "0.5", "--image-column", "photo"], "The dataset has no column 'photo'"),
    ],
)
def test_mistakes_end_with_a_message_and_leave_nothing(options, message, model, image_folder, tmp_path):
    dataset = [] if "--dataset" in options else ["--dataset", str(image_folder)]
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["prune", str(model), *dataset, "--output", str(tmp_path / "small"), *options])
    assert str(stop.value).startswith("error: ")
    assert message in str(stop.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_output_is_checked_before_the_model_is_loaded(tmp_path, image_folder):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match="is a file"):
        main(["prune", "/no/model", "--dataset", str(image_folder), "--mlp-sparsity", "0.5", "--output",
              str(tmp_path / "file")])  # fmt: skip


def test_shares_are_checked_before_calibration(model, image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(SNPPruner, "calibrate", lambda *_, **__: pytest.fail("calibrated"))
    options = ["--dataset", str(image_folder), "--output", str(tmp_path / "small"), "--mlp-sparsity", "0.5", "0.5"]
    with pytest.raises(SystemExit, match="--mlp-sparsity has 2 shares, but the model has 3 blocks"):
        main(["prune", str(model), *options])


def test_dataset_or_statistics(model, image_folder, tmp_path):
    with pytest.raises(SystemExit, match="Give either --dataset"):
        main(["prune", str(model), "--output", str(tmp_path / "small"), "--mlp-sparsity", "0.5"])


def test_every_field_of_the_config_is_an_option():
    help_text = build_parser()._subparsers._group_actions[0].choices["prune"].format_help()
    for option in fields(SNPConfig):
        assert f"--{option.name.replace('_', '-')} " in help_text


@pytest.mark.parametrize("value", ["all", "none", "3", "0.9"])
def test_number_of_directions(value):
    args = build_parser().parse_args(["prune", "m", "--output", "o", "--num-singular-directions", value])
    expected = {"all": None, "none": None, "3": 3, "0.9": 0.9}[value]
    assert args.num_singular_directions == expected
    assert type(args.num_singular_directions) is type(expected)


def installed_cli(*arguments):
    executable = shutil.which("optimum-cli", path=sys.prefix + "/bin") or shutil.which("optimum-cli")
    return subprocess.run([executable, *arguments], capture_output=True, text=True, timeout=120, cwd="/")


def test_optimum_cli_knows_the_command():
    assert "snp" in installed_cli("--help").stdout
    help_text = installed_cli("snp", "--help").stdout
    assert all(name in help_text for name in COMMANDS)
    assert "--mlp-sparsity" in installed_cli("snp", "prune", "--help").stdout
    failed = installed_cli("snp", "evaluate", "/no/such/model", "--dataset", "/no/such/folder")
    assert failed.returncode == 1 or failed.returncode == 2
    assert "Traceback" not in failed.stderr


def test_registering_the_command_imports_no_torch():
    script = "import sys, optimum.commands.register.register_snp; print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "False", process.stderr

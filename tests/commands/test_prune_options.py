"""What `optimum-cli snp prune` measures and leaves, and how the command line speaks of its own options."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands import COMMANDS, build_parser, main, prune
from optimum_snp.commands.errors import in_options
from optimum_snp.record.measurements import DENSE, PRUNED
from tests.commands.running import run


REGISTER = Path(__file__).parents[2] / "optimum" / "commands" / "register" / "register_snp.py"


@pytest.fixture(scope="module")
def front():
    """The file that optimum-cli loads, by its path: the installed one may be another."""
    spec = importlib.util.spec_from_file_location("front_of_snp", REGISTER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_figures_before_and_after(model, image_folder, tmp_path, capsys):
    small = tmp_path / "small"
    measured = ["--eval-dataset", image_folder, "--measure-latency"]
    options = ["--dataset", image_folder, "--output", small, "--target-flops", 0.5, *measured, "--json"]
    result = run(capsys, "prune", model, *options)
    dense = run(capsys, "evaluate", model, "--dataset", image_folder, "--json")
    pruned = run(capsys, "evaluate", small, "--dataset", image_folder, "--json")
    assert result["metrics"]["before"]["accuracy"] == dense["accuracy"]
    assert result["metrics"]["after"]["accuracy"] == pruned["accuracy"]
    found = SNPPruner.from_pretrained(small).measurements
    assert [(number.stage.name, number.accuracy) for number in found.accuracies] == [
        (DENSE, dense["accuracy"]),
        (PRUNED, pruned["accuracy"]),
    ]
    assert {number.stage.name: number.seconds for number in found.latencies} == {
        DENSE: result["seconds"]["original"],
        PRUNED: result["seconds"]["model"],
    }
    [row] = [line for line in (small / "README.md").read_text().splitlines() if line.startswith("| Top-1")]
    before, after = (float(cell.split()[0].rstrip("%")) for cell in row.split("|")[2:4])
    assert (before, after) == pytest.approx((100 * dense["accuracy"], 100 * pruned["accuracy"]), abs=0.01)

    # What was known of the first model travels on to the plan of the second; timed beside it is nothing dense.
    second = run(capsys, "prune", small, *options[:2], "--output", tmp_path / "second", "--v-sparsity", 0.5,
                 "--measure-latency", "--json")  # fmt: skip
    assert list(second["seconds"]) == ["model"]
    stages = [number.stage for number in SNPPruner.from_pretrained(tmp_path / "second").measurements.accuracies]
    assert [(stage.step, stage.name) for stage in stages] == [(0, DENSE), (1, PRUNED)]


def test_dry_run_writes_nothing(model, image_folder, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    result = run(capsys, "prune", model, "--dataset", image_folder, "--mlp-sparsity", 0.5, "--dry-run", "--json")
    assert result["output"] is None
    assert [block["after"]["intermediate_size"] for block in result["plan"]["blocks"]] == [48] * 3
    assert result["macs_after"] < result["macs_before"]
    main(["prune", str(model), "--dataset", str(image_folder), "--mlp-sparsity", "0.5", "--dry-run"])
    assert "Nothing was written" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mlp-sparsity", "0.5"], "--output FOLDER, or only plan it, --dry-run"),
        (["--mlp-sparsity", "0.5", "--dry-run", "--measure-latency"], "--dry-run measures nothing"),
        (["--mlp-sparsity", "0.5", "--reconstruction", "--statistics", "sums"], "give --dataset instead of"),
        (["--mlp-sparsity", "0.5", "--reconstruction-copies", "2", "--statistics", "sums"], "--reconstruction-copies"),
        (["--mlp-sparsity", "0.5", "--head-sparsity", "auto", "--dry-run"], "only mean something with --target-flops"),
    ],
)
def test_mistakes_are_told_before_the_model_is_loaded(options, message):
    dataset = [] if "--statistics" in options else ["--dataset", "none"]
    with pytest.raises(SystemExit) as stop:
        main(["prune", "/no/model", *dataset, *options])
    assert message in str(stop.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dropped-blocks", "two"], "argument --dropped-blocks: 'two' is not a count of blocks such as 2"),
        (["--mlp-sparsity", "half"], "argument --mlp-sparsity: 'half' is not a share such as 0.5"),
        (["--target-flops", "50%"], "argument --target-flops: '50%' is not a share such as 0.5"),
        (["--num-singular-directions", "x"], "'x' is not a count, a share such as 0.9, or `all`"),
        (["--seed", "1.5"], "argument --seed: '1.5' is not a whole number"),
        (["--method", "magic"], "argument --method: invalid choice: 'magic'"),
        (["--layout", "mine"], "argument --layout: invalid choice: 'mine'"),
        (["--frozen-parts", "heads"], "argument --frozen-parts: invalid choice: 'heads'"),
        (["--latency-backend", "tensorrt"], "argument --latency-backend: invalid choice"),
    ],
)
def test_values_that_cannot_be_read_say_what_is_wanted(options, message, capsys):
    with pytest.raises(SystemExit):
        main(["prune", "model", "--output", "out", *options])
    assert message in capsys.readouterr().err


def test_a_budget_takes_the_place_of_what_a_config_removes(tmp_path):
    def asked(saved, *options):
        saved.save_pretrained(tmp_path)
        return prune._config(build_parser().parse_args(["prune", "model", "--config", str(tmp_path), *options]))

    first = SNPConfig(target_latency=0.6, latency_threads=1, frozen_blocks=[0], method="snp-refit", seed=7)
    kept = {"frozen_blocks": [0], "method": "snp-refit", "seed": 7}
    assert asked(first, "--target-params", "0.7") == SNPConfig(target_params=0.7, **kept)
    assert asked(first, "--target-latency", "0.7") == SNPConfig(target_latency=0.7, latency_threads=1, **kept)
    shares = SNPConfig(mlp_sparsity=0.25, method="snp-refit", seed=7)
    assert asked(first, "--mlp-sparsity", "0.25") == shares
    assert asked(shares, "--target-flops", "0.8") == SNPConfig(target_flops=0.8, method="snp-refit", seed=7)
    assert asked(shares, "--qk-sparsity", "0.5") == SNPConfig(
        qk_sparsity=0.5, mlp_sparsity=0.25, method="snp-refit", seed=7
    )
    assert asked(first, "--seed", "8") == SNPConfig(**{**first.to_dict(), "seed": 8})


FLAGS = {"label_map": "--label-map", "overwrite": "--overwrite", "seed": "--seed", "num_train_epochs": "--epochs",
         "head_sparsity": "--head-sparsity"}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Pass a label_map.", "Pass a --label-map."),
        ('Say label_map={"a": "b"}.', 'Say --label-map={"a": "b"}.'),
        ("It is replaced with overwrite=True.", "It is replaced with --overwrite."),
        ("num_train_epochs must be above 0", "--epochs must be above 0"),
        ("seed must be 0 or more", "--seed must be 0 or more"),
        ("head_sparsity[1] must be", "--head-sparsity[1] must be"),
        # Not the names of arguments: words, keys, files and attributes.
        ("The seed of the overwrite", "The seed of the overwrite"),
        ("got 'label_map', label_map.txt, a/label_map", "got 'label_map', label_map.txt, a/label_map"),
        ("out/snp_config.json: head_sparsity must be a share", "out/snp_config.json: head_sparsity must be a share"),
    ],
)
def test_messages_name_options(message, expected):
    assert in_options(message, FLAGS) == expected


def test_the_front_tells_every_command_in_its_own_words(front):
    first_lines = {name: command.__doc__.strip().splitlines()[0] for name, command in COMMANDS.items()}
    assert first_lines == front.COMMANDS


def test_the_front_imports_neither_torch_nor_this_package():
    imported = {
        name
        for node in ast.walk(ast.parse(REGISTER.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and node.col_offset == 0
        for name in [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name]
    }
    assert imported == {"argparse", "importlib.metadata", "optimum.commands.base"}
    script = "import sys, optimum.commands.base; print({'torch', 'transformers'} & {*sys.modules})"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "set()", process.stderr


def test_version_and_mistyped_commands(front, capsys):
    with pytest.raises(SystemExit) as end:
        front.build_parser().parse_args(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("optimum-snp ")
    with pytest.raises(SystemExit):
        front._main(["prun"])
    assert "invalid choice: 'prun'" in capsys.readouterr().err

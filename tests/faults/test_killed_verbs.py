"""Verbs that are killed at random instants, by seed: the folder holds the old or the new model, and a person's files.

100 kills of `save_pretrained`, 40 of a training that then goes on, 40 of `push_to_hub` and 20 of `export` are slow; a
few run always.
"""

import os
import random
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.exporting import export
from optimum_snp.training import checkpoint_to_resume
from tests.folders.places import CHANGES
from tests.helpers import build_source


IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PAIRS = [(image, index % 5) for index, image in enumerate(IMAGES)]


def counts(few, many):
    return pytest.mark.parametrize("kills", [few, pytest.param(many, marks=pytest.mark.slow)])


def in_child(work, kill_at=None, further=()):
    """Runs `work` in a process that is killed before its change number `kill_at`.

    Returns:
        `int` or `None`: How many changes it made; `None` if it was killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        changes, me = 0, os.getpid()

        def hook(event, arguments):
            nonlocal changes
            if os.getpid() != me or event not in (*CHANGES, *further):
                return
            if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            changes += 1
            if changes == kill_at:
                os._exit(9)

        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.addaudithook(hook)
            work()
            os.write(writer, str(changes).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        told = answer.read()
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return int(told) if told else None


@pytest.fixture(scope="module")
def versions():
    """The old and the new model."""
    old = SNPPruner(build_source("ViTForImageClassification"))
    new = SNPPruner(build_source("ViTForImageClassification"))
    new.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=IMAGES)
    return old, new


def add_files_of_a_person(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "runs").mkdir()
    (folder / "runs" / "events").write_text("mine")


def assert_files_of_the_person(folder):
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "runs" / "events").read_text() == "mine"


def which(pruner, versions):
    for version in versions:
        weights, found = version.model.state_dict(), pruner.model.state_dict()
        if weights.keys() == found.keys() and all(weights[name].equal(found[name]) for name in weights):
            assert pruner.pruning_plan == version.pruning_plan
            return version
    raise AssertionError("neither the old nor the new model")


@counts(8, 100)
def test_save(kills, versions, tmp_path, without_matplotlib):
    without_matplotlib()
    old, new = versions
    generator = random.Random(kills)
    old.save_pretrained(tmp_path / "count")
    last = in_child(lambda: new.save_pretrained(tmp_path / "count", overwrite=True))
    found = []
    for number in range(kills):
        folder = tmp_path / str(number) / "model"
        old.save_pretrained(folder)
        add_files_of_a_person(folder)
        # Half of the kills while the folder is put in place, which takes a small part of the time.
        kill_at = generator.randint(1, last) if number % 2 else generator.randint(last - 45, last)
        in_child(lambda folder=folder: new.save_pretrained(folder, overwrite=True), kill_at)
        assert_files_of_the_person(folder)
        found.append(which(SNPPruner.from_pretrained(folder), versions))
        new.save_pretrained(folder, overwrite=True)
        assert which(SNPPruner.from_pretrained(folder), versions) is new
        assert_files_of_the_person(folder)
        assert [path.name for path in folder.parent.iterdir()] == ["model"]
        assert not [path for path in folder.rglob(".*") if path.is_file()]
    assert {id(version) for version in found} == {id(old), id(new)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that uses a GPU cannot be forked")
@counts(2, 40)
def test_finetune_goes_on(kills, versions, tmp_path, without_matplotlib):
    without_matplotlib()
    old = versions[0]
    generator = random.Random(kills)

    def train(folder):
        args = TrainingArguments(
            folder / "run", max_steps=4, save_steps=1, save_total_limit=2, per_device_train_batch_size=4,
            report_to="none", use_cpu=True, dataloader_pin_memory=False, disable_tqdm=True,
        )  # fmt: skip
        pruner = SNPPruner(build_source("ViTForImageClassification"))
        pruner.finetune(PAIRS, args=args, resume_from_checkpoint=True)
        pruner.save_pretrained(folder / "model", overwrite=True)

    def begin(folder):
        old.save_pretrained(folder / "model")
        add_files_of_a_person(folder / "model")

    begin(tmp_path / "whole")
    last = in_child(lambda: train(tmp_path / "whole"))
    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    for number in range(kills):
        folder = tmp_path / str(number)
        begin(folder)
        in_child(lambda folder=folder: train(folder), generator.randint(1, last))
        assert_files_of_the_person(folder / "model")
        SNPPruner.from_pretrained(folder / "model")
        if (folder / "run").exists():
            checkpoint_to_resume(folder / "run", True)
        in_child(lambda folder=folder: train(folder))
        weights = load_file(folder / "model" / "model.safetensors")
        assert all(weights[name].equal(weight) for name, weight in expected.items()), number
        assert_files_of_the_person(folder / "model")
        assert {path.name for path in folder.iterdir()} == {"model", "run"}


@counts(3, 40)
def test_push(kills, versions, hub, tmp_path, without_matplotlib, monkeypatch):
    without_matplotlib()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, new = versions
    generator = random.Random(kills)
    further = ["socket.connect"]  # every request is a connection of its own
    old.push_to_hub("me/count")
    last = in_child(lambda: new.push_to_hub("me/count"), further=further)
    for number in range(kills):
        repo_id = f"me/model-{number}"
        old.push_to_hub(repo_id)
        before = hub.repos[repo_id].resolve("main")
        killed = in_child(lambda repo_id=repo_id: new.push_to_hub(repo_id), generator.randint(1, last), further)
        repo = hub.repos[repo_id]
        head = repo.commits[repo.resolve("main")].files
        assert ("pruning_plan.json" in head) == (repo.resolve("main") != before)
        assert killed is None or repo.resolve("main") != before
        new.push_to_hub(repo_id)
        assert "pruning_plan.json" in repo.commits[repo.resolve("main")].files
        assert not list(tmp_path.glob("optimum-snp-*"))


@counts(2, 20)
def test_export(kills, versions, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    graphs = {}
    to_onnx = export.to_onnx

    def made_once(*given, **options):
        """The graph takes seconds and changes no file."""
        if "graph" not in graphs:
            graphs["graph"] = to_onnx(*given, **options)
        return graphs["graph"]

    monkeypatch.setattr(export, "to_onnx", made_once)
    monkeypatch.setattr(export, "_compare", lambda *_: export.Check(3, 0.0, 0.0, 1.0))  # a runtime has threads
    old = versions[0]
    generator = random.Random(kills)
    old.export(tmp_path / "count")
    last = in_child(lambda: old.export(tmp_path / "count", overwrite=True))
    for number in range(kills):
        folder = tmp_path / str(number) / "export"
        old.export(folder)
        add_files_of_a_person(folder)
        before = (folder / "model.onnx").stat().st_ino
        in_child(lambda folder=folder: old.export(folder, overwrite=True), generator.randint(1, last))
        assert_files_of_the_person(folder)
        names = {"model.onnx", "config.json", "snp_export.json", "notes.txt", "runs"}
        assert names <= {path.name for path in folder.iterdir()} <= names | {".snp_journal.json"}
        assert (folder / "model.onnx").stat().st_size > 0 and before
        old.export(folder, overwrite=True)
        assert {path.name for path in folder.iterdir()} == names
        assert [path.name for path in folder.parent.iterdir()] == ["export"]

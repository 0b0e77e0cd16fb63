"""A training that was killed ends where it would have ended; its checkpoints load and know their plan."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from optimum_snp import Recipe, SNPConfig, SNPPruner
from optimum_snp.calibration import model_fingerprint
from optimum_snp.training import checkpoint_to_resume
from tests.helpers import torchrun
from tests.training import resume_job


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without a break, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    return resume_job.train(folder, save_total_limit=None), folder


def assert_same_weights(model, expected):
    for name, weight in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


@pytest.mark.parametrize("step", [4, 10])  # within an epoch, and between two
def test_a_resumed_training_ends_as_one_without_a_break(whole, step, tmp_path):
    pruner, folder = whole
    resumed = resume_job.train(tmp_path, folder / f"checkpoint-{step}")
    assert_same_weights(resumed.model, pruner.model)


# All that draws while a model is trained, and the average of its weights.
RECIPE = Recipe.from_preset("deit-20").without("crop", "flip", "rand_augment", "color_jitter", "random_erasing")


@pytest.mark.parametrize(
    "options",
    [
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
        {"gradient_accumulation_steps": 2},
        {"recipe": RECIPE},
    ],
)
def test_workers_accumulation_and_recipes_resume_as_well(options, tmp_path):
    pruner = resume_job.train(tmp_path / "whole", **options)
    resumed = resume_job.train(tmp_path / "resumed", tmp_path / "whole" / "checkpoint-4", **options)
    assert_same_weights(resumed.model, pruner.model)


def test_workers_change_no_draw():
    alone, by_two = (torch.stack(resume_job.reading(num_workers)) for num_workers in (0, 2))
    assert torch.equal(alone, by_two)
    assert not torch.equal(alone[:20], alone[20:])  # another epoch, other draws


def test_a_killed_process_leaves_a_checkpoint_that_is_skipped(whole, tmp_path, caplog):
    process = torchrun(1, resume_job.__file__, tmp_path, KILL_AT_STEP="6", timeout=100)
    assert process.returncode != 0
    assert (tmp_path / "broken" / "checkpoint-6" / "model.safetensors").is_file()
    resumed = resume_job.train(tmp_path / "broken", True)
    assert "checkpoint-6 was not written to the end and is skipped" in caplog.text
    assert_same_weights(resumed.model, whole[0].model)


@pytest.mark.slow
def test_processes_that_were_killed_resume_together(tmp_path):
    process = torchrun(2, resume_job.__file__, tmp_path, KILL_AT_STEP="6", timeout=100)
    assert process.returncode != 0
    assert "SIGKILL" in process.stderr
    assert not (tmp_path / "broken" / "checkpoint-6" / "trainer_state.json").exists()
    process = torchrun(2, resume_job.__file__, tmp_path)
    assert process.returncode == 0, process.stderr
    broken, expected = (load_file(tmp_path / f"{name}.safetensors") for name in ("broken", "whole"))
    for name, weight in expected.items():
        assert torch.equal(broken[name], weight), name


def test_checkpoints_load_and_know_their_plan(whole):
    pruner, folder = whole
    checkpoint = SNPPruner.from_pretrained(folder / "checkpoint-12")
    assert_same_weights(checkpoint.model, pruner.model)
    assert checkpoint.pruning_plan == pruner.pruning_plan
    assert checkpoint.measurements == pruner.measurements
    assert SNPConfig.from_pretrained(folder / "checkpoint-12") == pruner.pruning_plan.config
    model = AutoModelForImageClassification.from_pretrained(folder / "checkpoint-12", trust_remote_code=True)
    assert model_fingerprint(model) == model_fingerprint(pruner.model)
    assert (folder / "checkpoint-12" / "modeling_snp_vit.py").is_file()


def test_the_state_of_the_training_is_written_last(whole):
    """Resuming relies on it: a checkpoint that has it has everything."""
    written = {path.name: path.stat().st_mtime_ns for path in (whole[1] / "checkpoint-12").iterdir()}
    assert written["trainer_state.json"] == max(written.values())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "pruning_plan.json"} <= written.keys()


def test_the_last_whole_checkpoint_is_found(whole, tmp_path, caplog):
    run = shutil.copytree(whole[1], tmp_path / "run")
    assert checkpoint_to_resume(run, True) == str(run / "checkpoint-12")
    state = run / "checkpoint-12" / "trainer_state.json"
    state.write_text(state.read_text()[:-10])  # cut short
    (run / "checkpoint-10" / "trainer_state.json").unlink()
    assert checkpoint_to_resume(run, True) == str(run / "checkpoint-8")
    assert "checkpoint-12 was not written to the end and is skipped" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-10 is no checkpoint that was written to the end"):
        checkpoint_to_resume(run, run / "checkpoint-10")


def test_without_a_checkpoint_training_starts(tmp_path, caplog):
    assert checkpoint_to_resume(tmp_path / "missing", True) is None
    assert "has no checkpoint to go on from. Training starts from the beginning." in caplog.text


def test_a_start_beside_old_checkpoints_is_a_warning(whole, caplog):
    assert checkpoint_to_resume(whole[1], None) is None
    assert "holds checkpoints of an earlier training, up to checkpoint-12" in caplog.text


def test_an_older_checkpoint_is_not_whole_while_it_is_written_over(whole, tmp_path, monkeypatch):
    run = shutil.copytree(whole[1], tmp_path / "run")
    seen = []

    def look(trainer, output_dir, state_dict=None):
        seen.append(checkpoint_to_resume(run, True))

    monkeypatch.setattr("transformers.Trainer._save", look)
    resume_job.train(run, run / "checkpoint-10")
    assert seen == [str(run / "checkpoint-10")]

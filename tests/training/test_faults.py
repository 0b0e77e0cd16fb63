"""Trainings that diverge, train nothing, or are resumed from checkpoints that are not whole."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.training import build_trainer, checkpoint_to_resume


def arguments(folder, **options):
    options = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 3, **options}
    return TrainingArguments(folder, report_to="none", use_cpu=True, dataloader_pin_memory=False, **options)


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


@pytest.fixture
def pruner(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    return pruner


class Diverge(TrainerCallback):
    """Makes a weight NaN after some steps, as too great a learning rate does."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, model, **_):
        if state.global_step == self.step:
            model.classifier.bias.data[0] = float("nan")


def test_a_training_that_diverged_leaves_the_last_good_checkpoint(pruner, pixel_values, tmp_path):
    pruner.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"after 4 steps .* is NaN or infinite.*checkpoint-2 is the last checkpoint"):
        pruner.finetune(
            pairs(pixel_values), args=arguments(tmp_path / "run", save_total_limit=1), callbacks=[Diverge(3)]
        )
    assert checkpoint_to_resume(tmp_path / "run", True) == str(tmp_path / "run" / "checkpoint-2")
    assert all(w.isfinite().all() for w in load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors").values())
    assert not (tmp_path / "run" / "checkpoint-4").exists()
    with pytest.raises(ValueError, match="NaN or infinite"):
        pruner.save_pretrained(tmp_path / "model", overwrite=True)
    assert SNPPruner.from_pretrained(tmp_path / "model").model.classifier.bias.isfinite().all()


def test_a_training_without_checkpoints_that_diverged(pruner, pixel_values, tmp_path):
    args = arguments(tmp_path, save_strategy="no")
    with pytest.raises(ValueError, match=r"after 6 steps .* and there is no checkpoint before that"):
        pruner.finetune(pairs(pixel_values), args=args, callbacks=[Diverge(6)])


@pytest.mark.parametrize("epochs", [0, -1])
def test_no_epochs_are_no_training(epochs, pruner, pixel_values, tmp_path):
    with pytest.raises(ValueError, match=rf"num_train_epochs must be above 0 to train anything, got {epochs}"):
        pruner.finetune(pairs(pixel_values), args=arguments(tmp_path, max_steps=-1, num_train_epochs=epochs))
    assert pruner.measurements.stage.name == "pruned"


def test_weights_that_did_not_change_are_not_fine_tuned(pruner, pixel_values, tmp_path, caplog):
    args = arguments(tmp_path, save_strategy="no", learning_rate=0.0)
    pruner.finetune(pairs(pixel_values), args=args)
    assert pruner.measurements.stage.name == "pruned"
    assert "The training changed no weight" in caplog.text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training with checkpoints at steps 2 and 4."""
    from tests.helpers import build_source

    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("run")
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification"))
    pruner.finetune(pairs(images), args=arguments(folder, max_steps=4))
    return folder


FILES = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 0.99])
def test_a_checkpoint_without_a_state_is_not_whole(name, share, run, tmp_path, caplog):
    """Missing, empty, or cut short anywhere."""
    broken = shutil.copytree(run, tmp_path / "run")
    file = broken / "checkpoint-4" / name
    content = file.read_bytes()
    file.unlink()
    if share is not None:
        file.write_bytes(content[: int(share * len(content))])
    assert checkpoint_to_resume(broken, True) == str(broken / "checkpoint-2")
    assert "checkpoint-4 was not written to the end and is skipped: it" in caplog.text
    assert name.split(".")[0] in caplog.text
    with pytest.raises(
        ValueError, match=rf"checkpoint-4 is no checkpoint that was written to the end: it.*{name.split('.')[0]}"
    ):
        checkpoint_to_resume(broken, broken / "checkpoint-4")


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_states_that_the_disk_changed_are_found(name, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    file = broken / "checkpoint-4" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert checkpoint_to_resume(broken, True) == str(broken / "checkpoint-2")


def test_shards_are_all_there(run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run")
    folder = broken / "checkpoint-4"
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    assert checkpoint_to_resume(broken, True) == str(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    assert checkpoint_to_resume(broken, True) == str(broken / "checkpoint-2")


def test_another_number_of_processes_is_said(run, tmp_path, caplog):
    two = shutil.copytree(run, tmp_path / "run") / "checkpoint-4"
    (two / "rng_state.pth").rename(two / "rng_state_0.pth")
    assert checkpoint_to_resume(two.parent, True) == str(two)
    assert "was written by another number of processes than the 1 of this job" in caplog.text


def test_weights_that_nobody_holds_whole_are_refused(pruner, pixel_values, tmp_path):
    """ZeRO-3 leaves every process a part of the weights, and a save would write empty tensors."""
    args = arguments(tmp_path)
    args.deepspeed_plugin = SimpleNamespace(zero_stage=3)
    with pytest.raises(ValueError, match="ZeRO-3 leaves every process a part of the weights"):
        build_trainer(pruner.model, args, pairs(pixel_values))

"""What experiment trackers are told, and what nobody is warned of."""

import json
import logging
import warnings

import pytest
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.packages import check_trackers


class Tracker(TrainerCallback):
    """Notes at the start what trackers take into the config of a run."""

    noted = None

    def on_train_begin(self, args, state, control, **_):
        Tracker.noted = json.loads(args.to_json_string())


@pytest.fixture
def pruner(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(target_flops=0.6), calibration_dataset=pixel_values)
    return pruner


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def test_the_run_knows_plan_budget_and_measurements(pruner, pixel_values, tmp_path, monkeypatch):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    accuracy = pruner.evaluate(pairs(pixel_values))["accuracy"]
    args = TrainingArguments(tmp_path, max_steps=1, report_to="tensorboard", use_cpu=True, disable_tqdm=True)
    pruner.finetune(pairs(pixel_values), args=args)
    noted = Tracker.noted["snp"]
    assert Tracker.noted["max_steps"] == 1
    assert noted["config"]["target_flops"] == 0.6
    assert noted["macs_after"] == pruner.pruning_plan.macs_after < noted["macs_before"]
    assert noted["accuracies"][0]["accuracy"] == accuracy
    assert noted["sizes"] == [block.after for block in pruner.pruning_plan.blocks]
    assert "snp" not in args.to_dict()


def test_a_tracker_that_is_not_installed_is_told_before_the_work():
    with pytest.raises(ImportError, match="Reports to no_such_tracker need its package: pip install no_such_tracker"):
        check_trackers(["no_such_tracker"])


def test_training_warns_of_nothing_that_the_user_cannot_mend(pruner, pixel_values, tmp_path, caplog):
    args = TrainingArguments(tmp_path, max_steps=1, report_to="none", disable_tqdm=True)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        warnings.filterwarnings("default", category=DeprecationWarning)  # of the libraries among themselves
        pruner.finetune(pairs(pixel_values), args=args)
    assert not caplog.messages
    assert args.dataloader_pin_memory  # the caller's own stay as they are

"""The public verbs on real models and images."""

import copy
import importlib.util
import json

import pytest
import torch
from transformers import AutoModelForImageClassification, TrainingArguments

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.models import SNPViTForImageClassification
from tests.helpers import accuracy, build_source


HALF = {"method": "snp", "qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5}


@pytest.fixture
def pruner(trained, digits):
    pruner = SNPPruner.from_pretrained(trained)
    pruner.calibrate(digits[0][:-500])
    return pruner


@pytest.fixture
def held_out(digits):
    return digits[0][-500:], digits[1][-500:]


def pairs(images, labels):
    return list(zip(images, labels.tolist(), strict=True))


def test_the_trained_model_is_good(trained, held_out):
    assert accuracy(trained, *held_out) > 0.93


def test_evaluate_is_the_accuracy(pruner, held_out):
    images, labels = held_out
    with torch.inference_mode():
        ranked = pruner.model(images).logits.argsort(-1, descending=True)
    expected = {
        "accuracy": (ranked[:, 0] == labels).float().mean().item(),
        "top5_accuracy": (ranked[:, :5] == labels.unsqueeze(1)).any(-1).float().mean().item(),
    }
    assert pruner.evaluate(pairs(images, labels), batch_size=33) == pytest.approx(expected)


def test_scores_choose_better_than_chance(trained, pruner, held_out):
    """What SNP removes hurts less than what it keeps would: the claim of the method, on real images."""
    statistics = pruner.statistics
    plan = pruner.plan(SNPConfig(method="snp", qk_sparsity=0.5))
    opposite = PruningPlan.from_dict(plan.to_dict())
    for block in opposite.blocks:
        block.query_key = [sorted(set(range(16)) - set(kept)) for kept in block.query_key]
    kept_best = accuracy(pruner.prune(plan), *held_out)
    worst = SNPPruner.from_pretrained(trained)
    worst.statistics = statistics
    assert kept_best > accuracy(worst.prune(opposite), *held_out) + 0.05


def test_finetuning_recovers(pruner, digits, held_out, tmp_path):
    pruned = pruner.prune(SNPConfig(**HALF))
    before = accuracy(pruned, *held_out)
    args = TrainingArguments(
        tmp_path,
        num_train_epochs=3,
        per_device_train_batch_size=50,
        learning_rate=1e-3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    output = pruner.finetune(pairs(digits[0][:-500], digits[1][:-500]), pairs(*held_out), args)
    after = accuracy(pruner.model, *held_out)
    assert output.training_loss < 2
    assert not pruner.model.training
    assert after > max(before, 0.9)


def test_prune_from_a_config_calibrates(source, pixel_values):
    one, other = SNPPruner.from_pretrained(source), SNPPruner.from_pretrained(source)
    one.prune(SNPConfig(num_calibration_samples=4, seed=3, **HALF), calibration_dataset=pixel_values)
    other.calibrate(pixel_values, num_samples=4, seed=3)
    other.prune(other.plan(SNPConfig(num_calibration_samples=4, seed=3, **HALF)))
    assert one.pruning_plan == other.pruning_plan
    assert torch.equal(one.model(pixel_values).logits, other.model(pixel_values).logits)


def test_same_seed_same_plan_other_seed_other_images(trained, digits):
    def plan(seed):
        pruner = SNPPruner.from_pretrained(trained)
        pruner.calibrate(digits[0], num_samples=8, seed=seed)
        return pruner.plan(SNPConfig(method="snp", qk_sparsity=0.5)).to_dict()

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_what_the_caller_passed_in_stays_whole(source, pixel_values):
    before = source(pixel_values).logits
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(**HALF), calibration_dataset=pixel_values)
    assert torch.equal(source(pixel_values).logits, before)


def test_a_copy_that_is_pruned_leaves_the_other_whole(pruner, held_out):
    pruner.evaluate(pairs(*held_out))
    before, measurements = dict(vars(pruner.record)), copy.deepcopy(pruner.measurements)
    other = pruner.copy()
    assert other.model is pruner.model
    assert other.statistics is pruner.statistics
    pruned = other.prune(SNPConfig(**HALF))
    assert other.original is pruner.model
    assert vars(pruner.record) == before
    assert pruner.original is None
    assert pruner.measurements == measurements
    again = pruner.copy().prune(SNPConfig(**HALF))  # the statistics are still there
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in pruned.state_dict().items())


@pytest.mark.parametrize("trained_first", ["copy", "original"])
def test_a_copy_and_its_original_train_on_their_own(trained_first, source, pixel_values, tmp_path):
    original = SNPPruner.from_pretrained(source)
    copied, pruned = original.copy(), original.copy()
    pruned.prune(SNPConfig(**HALF), calibration_dataset=pixel_values)
    model = original.model
    before = model(pixel_values).logits
    trains, rests = (copied, original) if trained_first == "copy" else (original, copied)
    args = TrainingArguments(tmp_path, max_steps=2, report_to="none", use_cpu=True, dataloader_pin_memory=False)
    trains.finetune(pairs(pixel_values, torch.arange(len(pixel_values)) % 5), args=args)
    assert not torch.equal(trains.model(pixel_values).logits, before)
    assert rests.model is model
    assert pruned.original is model  # the teacher of a third one
    assert torch.equal(model(pixel_values).logits, before)

    alone = trains.model
    trains.finetune(pairs(pixel_values, torch.arange(len(pixel_values)) % 5), args=args)
    assert trains.model is alone  # nothing is shared any more, so nothing is copied


def test_what_a_copy_measures_of_the_shared_model_both_know(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    labels = torch.arange(len(pixel_values)) % 5
    other = pruner.copy()
    other.evaluate(pairs(pixel_values, labels))
    assert len(pruner.measurements.accuracies) == 1
    other.prune(SNPConfig(**HALF), calibration_dataset=pixel_values)
    other.evaluate(pairs(pixel_values, labels))
    assert len(pruner.measurements.accuracies) == 1
    assert len(other.measurements.accuracies) == 2


def test_planning_and_pruning_need_calibration(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    with pytest.raises(ValueError, match=r"The model is not calibrated. Call calibrate"):
        pruner.plan(SNPConfig(**HALF))
    with pytest.raises(ValueError, match="The model is not calibrated"):
        pruner.prune(SNPConfig(**HALF))
    pruner.prune(SNPConfig(**HALF), calibration_dataset=pixel_values)
    with pytest.raises(ValueError, match="The model is not calibrated"):  # the pruned model is another one
        pruner.plan(SNPConfig(**HALF))


def test_shares_are_checked_before_calibration(source):
    with pytest.raises(ValueError, match="qk_sparsity has 2 shares, but the model has 3 blocks"):
        SNPPruner.from_pretrained(source).prune(SNPConfig(qk_sparsity=[0.5, 0.5]), calibration_dataset="/not/read")


def test_plan_takes_a_config(source):
    with pytest.raises(TypeError, match="plan takes an SNPConfig, got dict"):
        SNPPruner.from_pretrained(source).plan({"mlp_sparsity": 0.5})


def test_saving_does_not_push(source, tmp_path):
    with pytest.raises(TypeError, match="save_pretrained does not push"):
        SNPPruner.from_pretrained(source).save_pretrained(tmp_path / "model", push_to_hub=True)
    assert list(tmp_path.iterdir()) == []


def test_prune_takes_a_plan_or_a_config(source):
    with pytest.raises(TypeError, match="prune takes a PruningPlan or an SNPConfig, got dict"):
        SNPPruner.from_pretrained(source).prune({"mlp_sparsity": 0.5})


def test_plan_of_another_model_is_refused(pruner, source):
    plan = pruner.plan(SNPConfig(**HALF))
    with pytest.raises(ValueError, match="made for a model of other sizes"):
        SNPPruner.from_pretrained(source).prune(plan)


def test_options_do_not_go_with_a_loaded_model(source):
    with pytest.raises(TypeError, match="revision cannot be used with a model that is loaded already"):
        SNPPruner.from_pretrained(source, revision="main")


@pytest.mark.parametrize(
    ("class_name", "shape"), [("DeiTModel", (6, 18, 36)), ("SwinModel", (6, 16, 18)), ("SwinBackbone", (6, 18, 4, 4))]
)
def test_models_without_classifier_prune_but_do_not_train(class_name, shape, pixel_values):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    pruner.prune(SNPConfig(hidden_sparsity=0.25, **HALF), calibration_dataset=pixel_values)
    output = pruner.model(pixel_values)
    features = output.feature_maps[-1] if class_name == "SwinBackbone" else output.last_hidden_state
    assert features.shape == shape
    with pytest.raises(TypeError, match=f"{type(pruner.model).__name__} has no classifier to train or evaluate"):
        pruner.evaluate(pixel_values)


def test_saved_folder(pruner, held_out, tmp_path, image_processor):
    pruner.image_processor = image_processor
    pruner.prune(SNPConfig(hidden_sparsity=0.1, **HALF))
    pruner.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "configuration_snp_vit.py",
        "model.safetensors",
        "modeling_snp_vit.py",
        *(["pictures"] if importlib.util.find_spec("matplotlib") else []),
        "preprocessor_config.json",
        "pruning_plan.json",
        "snp_config.json",
        "snp_measurements.json",
    ]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == "snp_vit"
    assert config["hidden_size"] == 43
    assert config["block_configs"][0] == {
        "num_attention_heads": 3,
        "qk_head_dim": 8,
        "v_head_dim": 8,
        "intermediate_size": 96,
        "attention_scale": 0.25,
    }
    again = SNPPruner.from_pretrained(tmp_path / "model")
    assert again.pruning_plan == pruner.pruning_plan
    assert torch.equal(again.model(held_out[0]).logits, pruner.model(held_out[0]).logits)
    # With this package imported, no trust is needed.
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert isinstance(loaded, SNPViTForImageClassification)


def test_crash_while_saving_leaves_the_old_model(pruner, tmp_path, monkeypatch):
    pruner.save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}  # no plan yet, so no pictures
    pruner.prune(SNPConfig(**HALF))

    def crash(*_, **__):
        raise RuntimeError("out of power")

    monkeypatch.setattr(PruningPlan, "save", crash)
    with pytest.raises(RuntimeError, match="out of power"):
        pruner.save_pretrained(tmp_path / "model", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_to_a_file_is_refused(pruner, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        pruner.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_pruning_a_pruned_model_goes_on_from_its_sizes(pruner, digits, tmp_path):
    pruner.prune(SNPConfig(mlp_sparsity=0.5))
    pruner.save_pretrained(tmp_path / "model")
    again = SNPPruner.from_pretrained(tmp_path / "model")
    again.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=digits[0])
    assert [block["intermediate_size"] for block in again.model.config.block_configs] == [48] * 4


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.classifier.weight.data.mul_(1.01),
        lambda model: setattr(model.config, "layer_norm_eps", 1e-3),
        lambda model: setattr(model.config, "hidden_act", "relu"),
        lambda model: setattr(model.config, "image_size", 64),
    ],
    ids=["weights", "epsilon", "activation", "image size"],
)
def test_a_model_that_changed_since_calibration(source, pixel_values, change, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(pixel_values)
    pruner.statistics.save(tmp_path / "statistics.safetensors")
    plan = pruner.plan(SNPConfig(mlp_sparsity=0.5))
    change(pruner.model)
    for verb in (lambda: pruner.plan(SNPConfig(mlp_sparsity=0.5)), lambda: pruner.prune(plan)):
        with pytest.raises(ValueError, match=r"has changed since it was calibrated.*Call calibrate"):
            verb()
    with pytest.raises(ValueError, match="those of another model"):
        pruner.load_statistics(tmp_path / "statistics.safetensors")

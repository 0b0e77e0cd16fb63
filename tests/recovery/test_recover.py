import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils import data as torch_data

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import choose_images
from optimum_snp.families import convert
from optimum_snp.recovery.recovery import _choose_rate
from optimum_snp.recovery.targets import OutputReader, distance, with_targets
from optimum_snp.recovery.trainer import RecoveryTrainer
from tests.helpers import build_source


IMAGES = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(5))
SHARES = {"mlp_sparsity": 0.7, "v_sparsity": 0.5}


class Images(torch_data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"pixel_values": IMAGES[index]}


def pruned_pruner(class_name="ViTForImageClassification", **options):
    pruner = SNPPruner(build_source(class_name))
    pruner.calibrate(IMAGES, 32)
    pruner.prune(SNPConfig(method="snp", **SHARES, **options))
    return pruner


def recover(pruner, folder, **options):
    settings = {"minutes": 0.05, "batch_size": 8, "num_samples": 64, "learning_rate": 1e-3, **options}
    return pruner.recover(IMAGES, output_dir=folder, **settings)


def logits(model):
    with torch.no_grad():
        return model(IMAGES).logits


def kl(model, dense):
    return F.kl_div(
        logits(model).log_softmax(-1), logits(dense).log_softmax(-1), log_target=True, reduction="batchmean"
    )


def test_the_model_comes_closer(tmp_path):
    pruner = pruned_pruner()
    start = copy.deepcopy(pruner.model)
    found = recover(pruner, tmp_path, minutes=0.1)
    assert found.loss_after < found.loss_before
    assert found.num_steps >= 1 and found.learning_rate == 1e-3
    assert kl(pruner.model, pruner.original) < kl(start, pruner.original)
    assert not pruner.model.training


@pytest.mark.parametrize("class_name", ["ViTModel", "SwinBackbone"])
def test_without_classifier_features_are_learned(class_name, tmp_path):
    found = recover(pruned_pruner(class_name), tmp_path, minutes=0.1)
    assert found.loss_after < found.loss_before
    assert found.agreement_before is None and found.agreement_after is None


def test_a_ruinous_training_leaves_the_start(tmp_path):
    pruner = pruned_pruner()
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    found = recover(pruner, tmp_path, learning_rate=1e4)
    assert found.loss_after == found.loss_before
    assert all(torch.equal(weight, before[name]) for name, weight in pruner.model.state_dict().items())


def test_trials_choose_a_learning_rate(tmp_path, monkeypatch):
    rates = (1e-9, 1e-3, 10.0)
    monkeypatch.setattr("optimum_snp.recovery.recovery.LEARNING_RATES", rates)
    assert recover(pruned_pruner(), tmp_path, learning_rate=None).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("losses", "expected", "tried"),
    [([3, 2, 1], 3, 3), ([2, 1, 3, 0], 2, 3), ([1, 2, 0], 1, 2), ([math.inf] * 2, 1, 1)],
)
def test_rates_rise_until_one_is_worse(losses, expected, tried):
    calls = []

    def try_out(rate):
        calls.append(rate)
        return losses[rate - 1], 1 / rate

    assert _choose_rate(range(1, len(losses) + 1), try_out) == (expected, 1 / tried)
    assert calls == list(range(1, tried + 1))


def test_it_goes_on_from_a_checkpoint(tmp_path):
    pruner = pruned_pruner()
    start = copy.deepcopy(pruner.model)
    whole = recover(pruner, tmp_path)
    pruner.model.load_state_dict(start.state_dict())
    again = recover(pruner, tmp_path, resume=True)
    assert again.num_steps == whole.num_steps  # nothing is left to do, and the schedule is that of the first start
    assert again.loss_before == pytest.approx(whole.loss_before)
    assert again.loss_after == pytest.approx(whole.loss_after, rel=1e-4)


def test_a_copy_is_left_alone(tmp_path):
    pruner = pruned_pruner()
    other = pruner.copy()
    before = {name: weight.clone() for name, weight in other.model.state_dict().items()}
    recover(pruner, tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in other.model.state_dict().items())


def test_a_narrower_stream_learns_logits_alone(tmp_path):
    pruner = pruned_pruner(hidden_sparsity=0.25)
    found = recover(pruner, tmp_path)
    start = kl(pruner.model, pruner.original).item()
    assert found.loss_after <= found.loss_before
    assert start > 0


def test_who_teaches_and_what_is_refused(tmp_path):
    alone = SNPPruner(pruned_pruner().model)
    with pytest.raises(ValueError, match="Name a teacher"):
        recover(alone, tmp_path)
    with pytest.raises(ValueError, match="with 7 labels"):
        recover(alone, tmp_path, teacher=build_source("ViTForImageClassification", num_labels=7))
    with pytest.raises(ValueError, match="at least 16 images"):
        recover(pruned_pruner(), tmp_path, num_samples=8)
    found = recover(alone, tmp_path, teacher=build_source("ViTForImageClassification"))
    assert found.loss_after <= found.loss_before


def test_targets_are_the_outputs_of_the_dense_model():
    dense = convert(build_source("ViTForImageClassification"))
    taught = with_targets(Images(), dense, batch_size=8)
    with torch.no_grad():
        features = dense.snp_vit(IMAGES[:20]).last_hidden_state[:, :1]
        expected = dense(IMAGES[:20]).logits
    assert torch.allclose(taught.targets["logits"], expected, atol=1e-5)
    assert torch.allclose(taught.targets["features"], features, atol=1e-5)
    assert taught.spreads()["features"] == pytest.approx(features.var(dim=0, correction=0).mean().item(), rel=1e-4)
    assert torch.equal(taught[3]["pixel_values"], IMAGES[3])
    assert torch.equal(taught[3]["target_logits"], taught.targets["logits"][3])


def test_distance_is_kl_and_relative_error():
    generator = torch.Generator().manual_seed(0)
    outputs, targets = (
        {"logits": torch.randn(6, 5, generator=generator), "features": torch.randn(6, 1, 4, generator=generator)}
        for _ in range(2)
    )
    p, q = targets["logits"].softmax(-1), outputs["logits"].softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean() + (outputs["features"] - targets["features"]).square().mean() / 2
    assert torch.allclose(distance(outputs, targets, {"features": 2.0}), expected)
    outputs["features"] = outputs["features"][..., :3]
    assert torch.allclose(distance(outputs, targets, {"features": 2.0}), (p * (p / q).log()).sum(-1).mean())


@pytest.mark.parametrize(
    ("class_name", "token_sparsity"),
    [
        ("SwinForImageClassification", 0.0),
        ("ViTForImageClassification", 0.5),
        ("Dinov2ForImageClassification", 0.5),
        ("CLIPForImageClassification", 0.5),
        ("IJepaForImageClassification", 0.5),
    ],
)
def test_a_reader_keeps_what_the_classifier_reads(class_name, token_sparsity):
    pruner = SNPPruner(build_source(class_name))
    pruner.calibrate(IMAGES, 16)
    model = pruner.prune(SNPConfig(method="snp", token_sparsity=token_sparsity))
    with torch.no_grad():
        found = OutputReader(model).read(lambda: model(IMAGES[:2]))
        assert torch.allclose(model.classifier(found["features"][:, 0]), found["logits"], atol=1e-5)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_numbers_are_compared_as_they_are(problem_type):
    model = convert(build_source("ViTForImageClassification"))
    model.config.problem_type = problem_type
    reader = OutputReader(model)
    with torch.no_grad():
        targets = reader.read(lambda: model(IMAGES[:8]))
        model.classifier.bias += 1.0  # to which probabilities of one class of several are blind
        outputs = reader.read(lambda: model(IMAGES[:8]))
    spreads = dict.fromkeys(targets, 1.0)
    assert distance(outputs, targets, spreads).item() == pytest.approx(1.0, rel=1e-4)


def test_half_precision_ends_with_the_training(tmp_path, monkeypatch):
    marks = []

    class Trainer(RecoveryTrainer):
        def __init__(self, model, *args, **options):
            marks.append("_is_accelerate_prepared" in vars(model))
            super().__init__(model, *args, **options)

    monkeypatch.setattr("optimum_snp.recovery.recovery.RecoveryTrainer", Trainer)
    pruner = pruned_pruner()
    as_before = copy.deepcopy(pruner.model)
    recover(pruner, tmp_path, minutes=0.001, bf16=True)
    as_before.load_state_dict(pruner.model.state_dict())
    assert torch.equal(logits(pruner.model), logits(as_before))
    assert isinstance(pruner.model(IMAGES[:1], return_dict=False), tuple)
    assert "forward" not in vars(pruner.model)  # of a deep copy it would be the original's
    # One before training, trials and training itself: what is marked is trained without autocast, each process alone.
    assert len(marks) == 3 and not any(marks)


def test_images_are_held_back_that_the_same_seed_did_not_calibrate_on(tmp_path, monkeypatch):
    held_back = []

    class Trainer(RecoveryTrainer):
        def __init__(self, *args, eval_dataset, **options):
            held_back.append(torch.stack([item["pixel_values"] for item in eval_dataset]))
            super().__init__(*args, eval_dataset=eval_dataset, **options)

    monkeypatch.setattr("optimum_snp.recovery.recovery.RecoveryTrainer", Trainer)
    pruner = pruned_pruner()
    calibrated_on = choose_images(pruner.model, IMAGES, num_samples=32, seed=3).part(range(32)).cpu()
    recover(pruner, tmp_path, minutes=0.001, seed=3)
    assert all(len(images) == 32 for images in held_back)
    seen = (held_back[0].flatten(1).unsqueeze(1) == calibrated_on.flatten(1)).all(dim=-1)
    assert not seen.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes must be a number above 0"),
        ({"minutes": float("nan")}, "minutes must be a number above 0"),
        ({"minutes": "5"}, "minutes must be a number above 0"),
        ({"learning_rate": -1e-3}, "learning_rate must be a number above 0"),
        ({"torch_compile": True, "torch_compile_backend": "gpu"}, "torch_compile_backend must be one of .*inductor"),
        ({"max_steps": 5, "eval_strategy": "no"}, "max_steps, eval_strategy cannot be set"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("optimum_snp.recovery.recovery.with_targets", None)
    with pytest.raises(ValueError, match=message):
        recover(pruned_pruner(), tmp_path, **options)


@pytest.mark.parametrize(("enough", "warned"), [(64, False), (65, True)])
def test_few_images_are_warned_of(enough, warned, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("optimum_snp.recovery.recovery.ENOUGH_IMAGES", enough)
    monkeypatch.setattr("optimum_snp.recovery.recovery.with_targets", None)  # ends it
    with pytest.raises(TypeError):
        recover(pruned_pruner(), tmp_path)
    assert ("Recovery on 64 images" in caplog.text) == warned


def test_frozen_weights_and_checkpoints_of_another_training(tmp_path):
    pruner = pruned_pruner()
    recover(pruner, tmp_path, minutes=0.001)
    (tmp_path / "recovery.json").unlink()
    with pytest.raises(ValueError, match="not those of a recovery"):
        recover(pruner, tmp_path, resume=True)
    with pytest.raises(ValueError, match="is a file"):
        recover(pruner, next(tmp_path.rglob("config.json")))
    pruner.model.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        recover(pruner, tmp_path)


def test_feature_maps_of_another_width_cannot_be_learned(tmp_path):
    with pytest.raises(ValueError, match="narrower than what the dense one does"):
        recover(pruned_pruner("Dinov2Backbone", hidden_sparsity=0.25), tmp_path)

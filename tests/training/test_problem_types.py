"""Several classes per image, and numbers: the right loss, the right metrics, and what does not go with them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score, mean_squared_error, r2_score
from transformers import EvalPrediction, TrainingArguments

from optimum_snp import DistillationConfig, Recipe, SNPPruner
from optimum_snp.metrics import multi_label_metrics, regression_metrics
from optimum_snp.training.recipes import PARTS
from tests.helpers import build_source


MULTI = {"problem_type": "multi_label_classification"}
REGRESSION = {"problem_type": "regression"}
SMOOTHED = Recipe(epochs=1, learning_rate=0.1).without(*set(PARTS) - {"label_smoothing"})
PLAIN = Recipe(epochs=1, learning_rate=0.1).without(*PARTS)


def images(count=10):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def labelled(kind, num_labels):
    generator = torch.Generator().manual_seed(2)
    if kind is MULTI:
        labels = torch.randint(0, 2, (10, num_labels), generator=generator).tolist()
    else:
        labels = torch.randn(10, num_labels, generator=generator)
        labels = labels.squeeze(1).tolist() if num_labels == 1 else labels.tolist()
    return list(zip(images(), labels, strict=True))


def arguments(folder, **options):
    settings = {"per_device_train_batch_size": 10, "max_steps": 1, "optim": "sgd", "learning_rate": 0.1, **options}
    return TrainingArguments(
        folder, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        max_grad_norm=0, **settings,
    )  # fmt: skip


CASES = [(MULTI, 5), (REGRESSION, 1), (REGRESSION, 3), ({}, 1)]


@pytest.mark.parametrize(("kind", "num_labels"), CASES)
@pytest.mark.parametrize("recipe", [None, PLAIN], ids=["plain", "recipe"])
def test_a_step_is_that_of_the_loss(kind, num_labels, recipe, tmp_path):
    pruner = SNPPruner(build_source("ViTForImageClassification", num_labels=num_labels, **kind))
    pairs = labelled(kind if kind is MULTI else REGRESSION, num_labels)
    expected = SNPPruner(build_source("ViTForImageClassification", num_labels=num_labels, **kind)).model.train()
    logits = expected(images()).logits
    labels = torch.tensor([label for _, label in pairs], dtype=torch.float32).view_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, labels) if kind is MULTI else F.mse_loss(logits, labels)
    loss.backward()
    output = pruner.finetune(pairs, args=arguments(tmp_path), recipe=recipe)
    assert output.training_loss == pytest.approx(loss.item(), rel=1e-4)
    weight = expected.classifier.weight
    torch.testing.assert_close(pruner.model.classifier.weight, weight - 0.1 * weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "num_labels"), CASES)
def test_accumulated_gradients_count_every_image_once(kind, num_labels, tmp_path):
    weights = []
    for batch_size, accumulation in ((10, 1), (4, 3)):
        pruner = SNPPruner(build_source("ViTForImageClassification", num_labels=num_labels, **kind))
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        pairs = labelled(kind if kind is MULTI else REGRESSION, num_labels)
        pruner.finetune(pairs, args=arguments(tmp_path, **options))
        weights.append(pruner.model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)


def test_several_classes_are_evaluated(tmp_path):
    pruner = SNPPruner(build_source("ViTForImageClassification", **MULTI))
    pairs = labelled(MULTI, 5)
    with torch.inference_mode():
        logits = pruner.model(images()).logits.numpy()
    labels = np.array([label for _, label in pairs])
    found = pruner.evaluate(pairs, batch_size=4)
    assert found == {
        "f1_micro": pytest.approx(f1_score(labels, logits > 0, average="micro")),
        "f1_macro": pytest.approx(f1_score(labels, logits > 0, average="macro", zero_division=0)),
        "mean_average_precision": pytest.approx(average_precision_score(labels, logits, average="macro")),
    }
    assert pruner.measurements.accuracies == []  # the card states accuracies alone
    pruner.save_pretrained(tmp_path / "saved")
    assert SNPPruner.from_pretrained(tmp_path / "saved").evaluate(pairs) == pytest.approx(found)


@pytest.mark.parametrize("num_labels", [1, 3])
def test_numbers_are_evaluated(num_labels):
    pruner = SNPPruner(build_source("ViTForImageClassification", num_labels=num_labels, **REGRESSION))
    pairs = labelled(REGRESSION, num_labels)
    with torch.inference_mode():
        values = pruner.model(images()).logits.numpy()
    labels = np.array([label for _, label in pairs]).reshape(values.shape)
    assert pruner.evaluate(pairs, batch_size=4) == {
        "mse": pytest.approx(mean_squared_error(labels, values), rel=1e-4),
        "r2": pytest.approx(r2_score(labels, values), rel=1e-4),
    }


@pytest.mark.parametrize("kind", [MULTI, REGRESSION])
@pytest.mark.parametrize(
    ("options", "args", "message"),
    [
        ({"recipe": SMOOTHED}, {"label_smoothing_factor": 0.1}, "label smoothing cannot be used"),
        ({"recipe": "deit-20"}, {}, "mixup and cutmix cannot be used"),
        ({"distillation": DistillationConfig(), "teacher": "itself"}, {}, "a teacher cannot be used"),
        ({}, {"label_smoothing_factor": 0.1}, "label smoothing cannot be used"),
    ],
)
def test_what_is_for_one_class_per_image_is_refused(kind, options, args, message, image_processor, tmp_path):
    source = build_source("ViTForImageClassification", **kind)
    options = {**options, **({"teacher": source} if "teacher" in options else {})}
    with pytest.raises(ValueError, match=message):
        SNPPruner(source, image_processor).finetune(labelled(kind, 5), args=arguments(tmp_path, **args), **options)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (30, 6))
    labels[0] = 1  # every class is there
    logits = generator.normal(size=(30, 6)).round(1)  # with equal ones
    assert multi_label_metrics(EvalPrediction(logits, labels)) == {
        "f1_micro": pytest.approx(f1_score(labels, logits > 0, average="micro")),
        "f1_macro": pytest.approx(f1_score(labels, logits > 0, average="macro")),
        "mean_average_precision": pytest.approx(average_precision_score(labels, logits, average="macro")),
    }
    values = generator.normal(size=(30, 2))
    assert regression_metrics(EvalPrediction(logits[:, :2], values)) == {
        "mse": pytest.approx(mean_squared_error(values, logits[:, :2])),
        "r2": pytest.approx(r2_score(values, logits[:, :2])),
    }


def test_metrics_without_an_answer():
    nothing = multi_label_metrics(EvalPrediction(np.full((3, 2), -1.0), np.zeros((3, 2))))
    assert nothing["f1_micro"] == nothing["f1_macro"] == 0
    assert np.isnan(nothing["mean_average_precision"])
    assert np.isnan(regression_metrics(EvalPrediction(np.zeros((3, 1)), np.ones(3)))["r2"])

"""Pruning for some of the classes of a model."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.reshaping.classes import keep_classes
from tests.helpers import build_source


NAMES = {0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "elk"}
KEPT = [3, 0, 4]


def labelled_images(count=20):
    """Images with the number of their class; those of a class are all alike but for noise."""
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = [index % 5 for index in range(count)]
    return [(image * 0.1 + label, label) for image, label in zip(images, labels, strict=True)]


def source(class_name="ViTForImageClassification"):
    model = build_source(class_name)
    model.config.id2label = dict(NAMES)
    return model


@pytest.mark.parametrize(
    "class_name",
    ["ViTForImageClassification", "DeiTForImageClassificationWithTeacher", "SwinForImageClassification"],
)
def test_logits_are_those_of_the_whole_model(class_name):
    pruner = SNPPruner(source(class_name))
    images = torch.randn(2, 3, 32, 32)
    whole = pruner.model
    some = keep_classes(whole, KEPT)
    with torch.inference_mode():
        torch.testing.assert_close(some(images).logits, whole(images).logits[:, KEPT])
    assert some.config.id2label == {0: "dog", 1: "ant", 2: "elk"}
    assert some.config.label2id == {"dog": 0, "ant": 1, "elk": 2}
    assert whole.config.id2label == NAMES


def test_calibration_is_on_images_of_the_classes():
    pruner = SNPPruner(source())
    whole = pruner.model
    dataset = labelled_images()
    found = pruner.calibrate(dataset, 6, classes=["dog", 0, "elk"])
    used = torch.stack([item["pixel_values"] for item in pruner.calibration_images.dataset])
    assert sorted(used.mean(dim=(1, 2, 3)).round().int().unique().tolist()) == [0, 3, 4]
    expected = SNPPruner(keep_classes(whole, KEPT)).calibrate(used, 6)
    for sums, expected_sums in zip(found.blocks, expected.blocks, strict=True):
        torch.testing.assert_close(sums["mlp_moment"], expected_sums["mlp_moment"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["snp", "native"])
def test_the_pruned_model_knows_the_classes(layout, tmp_path):
    pruner = SNPPruner(source())
    pruner.calibrate(labelled_images(), classes=["dog", "ant", "elk"])
    pruner.prune(SNPConfig(mlp_sparsity=0.5, layout=layout))
    pruner.save_pretrained(tmp_path / "small")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "small").eval()
    assert loaded.config.id2label == {0: "dog", 1: "ant", 2: "elk"}
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images).logits, pruner.model(images).logits, rtol=1e-4, atol=1e-5)
    of_classes = [(image, KEPT.index(label)) for image, label in labelled_images() if label in KEPT]
    assert 0 <= pruner.evaluate(of_classes)["accuracy"] <= 1


def test_the_whole_model_teaches_what_was_pruned_for_some_classes(tmp_path):
    whole = source()
    pruner = SNPPruner(whole)
    pruner.calibrate(labelled_images(), classes=["dog", "ant", "elk"])
    pruner.prune(SNPConfig(mlp_sparsity=0.5))
    images = torch.stack([image for image, _ in labelled_images()])
    options = {"minutes": 0.001, "batch_size": 8, "learning_rate": 1e-4, "output_dir": tmp_path}
    recovery = pruner.recover(images, teacher=whole, **options)
    assert recovery.loss_after <= recovery.loss_before


def test_the_model_before_pruning_teaches_what_loses_classes_later(tmp_path):
    pruner = SNPPruner(source())
    pruner.prune(SNPConfig(method="snp", mlp_sparsity=0.5), calibration_dataset=labelled_images())
    dense = pruner.original
    pruner.calibrate(labelled_images(), classes=["dog", "ant", "elk"])
    images = torch.stack([image for image, _ in labelled_images()])
    with torch.inference_mode():
        kept = [dense.config.label2id[name] for name in ("dog", "ant", "elk")]
        torch.testing.assert_close(pruner.original(images).logits, dense(images).logits[:, kept])
    options = {"minutes": 0.001, "batch_size": 8, "learning_rate": 1e-4, "output_dir": tmp_path}
    recovery = pruner.recover(images, **options)
    assert recovery.loss_after <= recovery.loss_before


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["dog", "yak"], "classes names 'yak', which is no class of the model"),
        (["dog", 3], "classes names 'dog' more than once"),
        (["dog"], "classes names 1 of the model's classes"),
        ([], "classes names 0 of the model's classes"),
    ],
)
def test_classes_that_cannot_be_kept(classes, message):
    pruner = SNPPruner(source())
    with pytest.raises(ValueError, match=message):
        pruner.calibrate(labelled_images(), classes=classes)
    assert pruner.model.config.num_labels == 5


def test_what_has_no_classes():
    pruner = SNPPruner(source())
    with pytest.raises(ValueError, match="has no label"):
        pruner.calibrate([image for image, _ in labelled_images()], classes=["dog", "ant"])
    with pytest.raises(ValueError, match="is of one of these 2 classes"):
        pruner.calibrate([item for item in labelled_images() if item[1] == 1], classes=["dog", "ant"])
    with pytest.raises(ValueError, match="classes names 'elk', 'bee', of which the dataset has no image"):
        pruner.calibrate([item for item in labelled_images() if item[1] in (0, 3)], classes=["elk", "dog", "bee"])
    for classes in ("dog", {"dog", "ant"}):  # a set has no order
        with pytest.raises(TypeError, match="a list of names"):
            pruner.calibrate(labelled_images(), classes=classes)
    with pytest.raises(TypeError, match="has no classifier"):
        SNPPruner(build_source("ViTModel")).calibrate(labelled_images(), classes=["dog", "ant"])

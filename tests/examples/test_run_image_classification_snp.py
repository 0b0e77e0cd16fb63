"""The script that prunes and fine-tunes on a folder of images."""

import json
import shutil
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from optimum_snp import SNPPruner
from tests.helpers import build_source


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXAMPLES))
    import run_image_classification_snp

    yield run_image_classification_snp
    sys.path.remove(str(EXAMPLES))


@pytest.fixture
def model(tmp_path, image_processor):
    folder = tmp_path / "dense"
    source = build_source(
        "DeiTForImageClassificationWithTeacher", id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1}
    )
    source.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    return folder


def options(model, images, output, *further):
    """Two epochs of two steps each."""
    return [
        *("--model_name_or_path", str(model), "--train_dir", str(images), "--output_dir", str(output)),
        *("--target_flops", "0.6", "--num_calibration_samples", "6", "--do_train", "--do_eval", "--use_cpu"),
        *("--train_val_split", "0.2", "--per_device_train_batch_size", "4", "--num_train_epochs", "2"),
        *("--learning_rate", "1e-3", "--save_strategy", "epoch", "--report_to", "none"),
        *("--dataloader_pin_memory", "False", *further),
    ]


def test_from_a_folder_to_a_model(script, model, image_folder, tmp_path):
    results = script.main(options(model, image_folder, tmp_path / "small", "--distill", "--recipe", "deit-20"))
    assert set(results) == {
        "train_loss",
        *(f"{stage}_{name}" for stage in ("dense", "pruned", "finetuned") for name in ("accuracy", "top5_accuracy")),
    }
    assert json.loads((tmp_path / "small" / "all_results.json").read_text()) == results
    pruner = SNPPruner.from_pretrained(tmp_path / "small")
    assert pruner.pruning_plan.config.target_flops == 0.6
    images = script.load_images(script.DataArguments(train_dir=image_folder, train_val_split=0.2), 42, do_eval=True)[1]
    assert pruner.evaluate(images)["accuracy"] == results["finetuned_accuracy"]
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "small" / "checkpoint-4")


def test_going_on_from_a_checkpoint_ends_where_an_unbroken_run_ends(script, model, image_folder, tmp_path):
    training = ("--distill", "--recipe", "deit-20", "--resume_from_checkpoint", "True")  # starts where there is none
    script.main(options(model, image_folder, tmp_path / "whole", *training))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "broken" / "checkpoint-2")
    script.main(options(model, image_folder, tmp_path / "broken", *training))
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(weight.equal(broken[name]) for name, weight in whole.items())
    with pytest.raises(ValueError, match="checkpoint-4 was pruned otherwise than is asked for now"):
        script.main(options(model, image_folder, tmp_path / "broken", *training, "--method", "snp"))


def test_recipe_gives_what_is_not_given(script):
    required = ["--model_name_or_path", "m", "--train_dir", "t", "--output_dir", "o", "--use_cpu"]
    *_, args = script.parse([*required, "--recipe", "deit-300", "--per_device_train_batch_size", "128"])
    assert (args.num_train_epochs, args.learning_rate, args.weight_decay) == (300, 1e-3 / 4, 0.05)
    *_, args = script.parse([*required, "--recipe", "deit-300", "--learning_rate", "0.1", "--num_train_epochs", "7"])
    assert (args.num_train_epochs, args.learning_rate) == (7, 0.1)
    *_, recovery, args = script.parse([*required, "--distill", "--temperature", "3"])
    assert args.num_train_epochs == 3
    assert recovery.distillation().temperature == 3


def test_other_labels_need_a_new_classifier(script, model, image_folder, tmp_path):
    for name, other in (("0", "cat"), ("1", "dog")):
        (image_folder / name).rename(image_folder / other)
    with pytest.raises(ValueError, match=r"does not know 'cat', 'dog'.*--ignore_mismatched_sizes"):
        script.main(options(model, image_folder, tmp_path / "small"))
    with pytest.raises(ValueError, match="has a new classifier and cannot teach"):
        script.main(options(model, image_folder, tmp_path / "small", "--ignore_mismatched_sizes", "--distill"))
    teacher = ("--teacher_name_or_path", str(model))
    with pytest.raises(ValueError, match="Label 0 is 'cat' to the student and '0' to the teacher"):
        script.main(options(model, image_folder, tmp_path / "small", "--ignore_mismatched_sizes", *teacher))
    script.main(options(model, image_folder, tmp_path / "small", "--ignore_mismatched_sizes"))
    assert SNPPruner.from_pretrained(tmp_path / "small").model.config.id2label == {0: "cat", 1: "dog"}


def test_classes_are_those_of_the_model(script, image_folder, image_processor, tmp_path):
    """A model without names for its labels gets them; else the classes of other images would be counted anew."""
    build_source("ViTForImageClassification", num_labels=2).save_pretrained(tmp_path / "unnamed")
    image_processor.save_pretrained(tmp_path / "unnamed")
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    (other / "0").rename(other / "dog")
    arguments = options(tmp_path / "unnamed", image_folder, tmp_path / "small", "--validation_dir", str(other))
    with pytest.raises(ValueError, match="the model with its 2 does not know 'dog'"):
        script.main(arguments)
    model_args = script.ModelArguments(model_name_or_path=str(tmp_path / "unnamed"))
    pruner, is_new = script.load_model(model_args, ["n01440764", "n01443537"])
    assert (pruner.model.config.id2label[1], is_new) == ("n01443537", False)
    model_args = script.ModelArguments(model_name_or_path=str(tmp_path / "unnamed"), ignore_mismatched_sizes=True)
    assert script.load_model(model_args, ["cat", "dog", "ox"])[1]


def test_without_evaluation_all_images_train(script, image_folder):
    train, validation = script.load_images(script.DataArguments(train_dir=image_folder), 42, do_eval=False)
    assert (len(train), validation) == (sum(1 for _ in image_folder.glob("*/*")), None)


def test_streams_are_read_as_they_come(script, model, tmp_path, monkeypatch):
    images = datasets.Dataset.from_dict(
        {"image": [Image.new("L", (32, 32), 25 * index) for index in range(10)], "label": [0, 1] * 5},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1"])}),
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, streaming, split: images.to_iterable_dataset())
    streaming = ("--dataset_name", "no/such", "--streaming", "--max_eval_samples", "8")
    arguments = options(model, "", tmp_path / "small", *streaming)
    del arguments[2:4]  # the folder
    with pytest.raises(ValueError, match="stream that does not know its length"):
        script.main(arguments)
    assert script.main([*arguments, "--max_steps", "2"])["finetuned_top5_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--target_params", "0.5"], "Say how much may remain with one of --target_flops"),
        (["--without", "mixup"], "name the recipe with --recipe"),
        (["--dataset_name", "imagenet-1k"], "Give either --dataset_name or --train_dir"),
        (["--train_val_split", "0"], "--train_val_split must be between 0 and 1, got 0.0"),
        (["--distillation_kind", "hard"], "no teacher; say --distill"),
        (["--streaming"], "--streaming reads a data set of the Hub"),
        (["--distill", "--temperature", "0"], "temperature must be a positive number"),
    ],
)
def test_mistakes_are_told_before_any_work(script, further, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        script.main(options("no-model", "no-folder", tmp_path / "small", *further))

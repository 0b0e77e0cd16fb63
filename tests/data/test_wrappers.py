"""The perfect model stays perfect, or the data set is refused, whatever wraps its images and counts its classes."""

import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils import data as torch_data
from transformers import TrainingArguments

from optimum_snp import SNPPruner
from optimum_snp.data import pixel_dataset
from tests.data import perfect


# Another order and spelling than the model's.
OTHER_NAMES = ["Blue", "dark_red", "GREEN", "red "]


def colour_of(name):
    return name.strip().lower().replace("_", " ")


def columns(names=OTHER_NAMES, count=12):
    """Images and the numbers of their classes."""
    labels = [index % len(names) for index in range(count)]
    return [perfect.image_of(colour_of(names[label]), 100 + index) for index, label in enumerate(labels)], labels


def hf_dataset(names=OTHER_NAMES, count=12):
    images, labels = columns(names, count)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


class Folder(torch_data.Dataset):
    """Like torchvision's ImageFolder."""

    def __init__(self, names=OTHER_NAMES, count=12, target_transform=None):
        self.images, self.targets = columns(names, count)
        self.classes = names
        self.class_to_idx = {name: index for index, name in enumerate(names)}
        self.target_transform = target_transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        label = self.targets[index]
        return self.images[index], self.target_transform(label) if self.target_transform else label


class OnlyClasses(Folder):
    def __init__(self):
        super().__init__()
        del self.class_to_idx


class Wrapped(torch_data.Dataset):
    """A user's own, that handles another and may change its labels."""

    def __init__(self, dataset, change=lambda label: label):
        self.dataset = dataset
        self.change = change

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        item = self.dataset[index]
        image, label = (item["image"], item["label"]) if isinstance(item, dict) else item
        return image, self.change(label)


class Stream(torch_data.IterableDataset):
    def __init__(self, names):
        self.items = list(zip(*columns(names), strict=True))
        self.classes = names

    def __iter__(self):
        return iter(self.items)


def renamed(batch):
    """A usual transform: other names for the same things."""
    return {"pixel_values": [image.convert("RGB") for image in batch["image"]], "labels": batch["label"]}


def set_transform(dataset):
    dataset.set_transform(renamed)
    return dataset


def models_number(label):
    """What a careful user's transform makes of a label."""
    return perfect.NAMES.index(colour_of(OTHER_NAMES[label]))


def names_in_a_column():
    images, labels = columns()
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    names = [OTHER_NAMES[label] for label in labels]
    return datasets.Dataset.from_dict({"image": images, "label": names}, features=features)


def with_features(stream):
    return stream.map(lambda row: row, features=stream.features)


WRAPPERS = {
    "columns": lambda: hf_dataset(),
    "formatted": lambda: hf_dataset().with_format("torch"),
    "selected": lambda: hf_dataset().select([5, 2, 7, 0]),
    "shuffled": lambda: hf_dataset().shuffle(seed=3),
    "with_transform": lambda: hf_dataset().with_transform(renamed),
    "set_transform": lambda: set_transform(hf_dataset()),
    "with_transform, the model's numbers": lambda: hf_dataset().with_transform(
        lambda batch: {"image": batch["image"], "label": [models_number(label) for label in batch["label"]]}
    ),
    "with_transform, names": lambda: hf_dataset().with_transform(
        lambda batch: {"image": batch["image"], "label": [OTHER_NAMES[label] for label in batch["label"]]}
    ),
    "Subset": lambda: torch_data.Subset(hf_dataset(), [7, 1, 2, 8]),
    "Subset of Subset": lambda: torch_data.Subset(torch_data.Subset(Folder(), range(1, 12)), [7, 1, 2, 8]),
    "random_split": lambda: torch_data.random_split(hf_dataset(), [8, 4])[0],
    "ConcatDataset": lambda: torch_data.ConcatDataset([hf_dataset(), hf_dataset(["RED", "blue"], 5), Folder()]),
    "Subset of ConcatDataset": lambda: torch_data.Subset(
        torch_data.ConcatDataset([Folder(), hf_dataset(["green"], 3)]), [13, 2, 3, 12]
    ),
    "stream": lambda: hf_dataset().to_iterable_dataset(),
    "stream, shuffled": lambda: hf_dataset().to_iterable_dataset().shuffle(seed=1).filter(lambda row: True),
    "stream, mapped with features": lambda: with_features(hf_dataset().to_iterable_dataset()),
    "stream, in the model's order": lambda: hf_dataset(perfect.NAMES).to_iterable_dataset().map(lambda row: row),
    "stream of one's own": lambda: Stream(OTHER_NAMES),
    "ChainDataset": lambda: torch_data.ChainDataset([Stream(OTHER_NAMES), Stream(["red", "blue"])]),
    "mapped": lambda: hf_dataset().map(lambda row: row),
    "ImageFolder": lambda: Folder(),
    "ImageFolder, target_transform": lambda: Folder(target_transform=models_number),
    "classes": lambda: OnlyClasses(),
    "class subset": lambda: Folder(["dark red", "green"]),
    "own wrapper of the model's order": lambda: Wrapped(hf_dataset(perfect.NAMES)),
    "own wrapper that gives names": lambda: Wrapped(hf_dataset(), lambda label: OTHER_NAMES[label]),
    "pairs of the model's numbers": lambda: [(image, models_number(label)) for image, label in Folder()],
    "names in a column": lambda: names_in_a_column(),
    "names in a column, transformed": lambda: names_in_a_column().with_transform(
        lambda batch: {"image": batch["image"], "label": [perfect.NAMES.index(colour_of(n)) for n in batch["label"]]}
    ),
}  # fmt: skip

REFUSED = {
    "with_transform of two columns of classes": lambda: (
        hf_dataset()
        .add_column("coarse", [0] * 12)
        .cast_column("coarse", datasets.ClassLabel(names=["colour"]))
        .with_transform(renamed)
    ),
    "with_transform that counts names": lambda: names_in_a_column().with_transform(
        lambda batch: {"image": batch["image"], "label": [OTHER_NAMES.index(name) for name in batch["label"]]}
    ),
    "stream, mapped": lambda: hf_dataset().to_iterable_dataset().map(lambda row: row),
    "own wrapper": lambda: Wrapped(hf_dataset()),
    "own wrapper of a wrapper": lambda: Wrapped(torch_data.Subset(hf_dataset(), range(4))),
    "own wrapper of an ImageFolder": lambda: Wrapped(Folder()),
    "with_transform that counts anew": lambda: hf_dataset().with_transform(
        lambda batch: {"image": batch["image"], "label": [3 - label for label in batch["label"]]}
    ),
    "ImageFolder that counts anew": lambda: Folder(target_transform=lambda label: (label + 1) % 4),
}


@pytest.fixture
def pruner():
    return SNPPruner(perfect.model(), perfect.processor())


@pytest.mark.parametrize("kind", WRAPPERS)
def test_perfect_stays_perfect(kind, pruner):
    assert pruner.evaluate(WRAPPERS[kind](), batch_size=4) == {"accuracy": 1.0, "top5_accuracy": 1.0}


# The wrappers are those of the test above, and training sees the same items: two will do, of a set and of a stream.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("columns", "stream, shuffled") else [pytest.mark.slow])
        for kind in WRAPPERS
    ],
)
def test_fine_tuning_leaves_the_perfect_perfect(kind, pruner, tmp_path):
    args = TrainingArguments(
        tmp_path, use_cpu=True, report_to="none", max_steps=12, per_device_train_batch_size=4, learning_rate=1e-3,
        save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    pruner.finetune(WRAPPERS[kind](), args=args)
    assert pruner.evaluate(hf_dataset(count=40))["accuracy"] == 1.0


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_told_is_refused(kind, pruner, tmp_path):
    with pytest.raises(ValueError, match="whose number it is cannot be told"):
        pruner.evaluate(REFUSED[kind]())
    args = TrainingArguments(tmp_path, use_cpu=True, report_to="none", max_steps=2, disable_tqdm=True)
    with pytest.raises(ValueError, match="whose number it is cannot be told"):
        pruner.finetune(REFUSED[kind](), args=args)


def test_classes_that_the_model_does_not_know_are_refused_and_can_be_mapped(pruner, tmp_path):
    names = {"Blau": "blue", "Rot": "red"}
    images, labels = columns([*names.values()])
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=[*names]))
    dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    with pytest.raises(ValueError, match=r"does not know 'Blau', 'Rot'. The model's are 'red', 'green', 'blue', …"):
        pruner.evaluate(dataset)
    assert pruner.evaluate(dataset, label_map=names)["accuracy"] == 1.0
    args = TrainingArguments(tmp_path, use_cpu=True, report_to="none", max_steps=2, disable_tqdm=True)
    pruner.finetune(dataset, {"one": dataset}, args, label_map=names)
    assert pruner.evaluate(dataset, label_map=names)["accuracy"] == 1.0


def unnamed(order=perfect.NAMES):
    return SNPPruner(perfect.model([f"LABEL_{number}" for number in range(4)], order), perfect.processor())


def test_unnamed_models_take_all_classes_in_order_or_none():
    order = [colour_of(name) for name in OTHER_NAMES]
    assert unnamed(order).evaluate(hf_dataset())["accuracy"] == 1.0
    pruner = unnamed()
    with pytest.raises(ValueError, match="has 2 classes, 'blue', 'red', and the model has 4 without names"):
        pruner.evaluate(hf_dataset(["blue", "red"]))
    assert pruner.evaluate(hf_dataset(["blue", "red"]), label_map={"blue": 2, "red": "LABEL_0"})["accuracy"] == 1.0
    assert pruner.model.config.id2label[0] == "LABEL_0"


def test_parts_of_one_dataset_mean_the_same_by_the_same_name():
    order = [colour_of(name) for name in OTHER_NAMES]
    parts = torch_data.ConcatDataset([hf_dataset(), hf_dataset(["red", "green", "blue", "dark red"])])
    assert unnamed(order).evaluate(parts)["accuracy"] == 1.0


def test_unnamed_models_learn_the_names_that_they_are_trained_on(tmp_path):
    pruner = unnamed([colour_of(name) for name in OTHER_NAMES])
    args = TrainingArguments(tmp_path / "run", use_cpu=True, report_to="none", max_steps=2, disable_tqdm=True)
    pruner.finetune(hf_dataset(), hf_dataset(perfect.NAMES), args)
    pruner.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path / "saved", tmp_path / "run" / "checkpoint-2"):
        again = SNPPruner.from_pretrained(folder)
        assert again.model.config.id2label == dict(enumerate(OTHER_NAMES))
        assert again.model.config.label2id == {name: number for number, name in enumerate(OTHER_NAMES)}
    assert again.evaluate(hf_dataset(["red", "blue"]))["accuracy"] == 1.0


@pytest.mark.parametrize("label2id", [None, {name: str(n) for n, name in enumerate(perfect.NAMES)}, {"LABEL_0": 0}])
def test_label2id_follows_from_id2label(label2id, tmp_path):
    pruner = SNPPruner(perfect.model(label2id=label2id), perfect.processor())
    assert pruner.evaluate(hf_dataset())["accuracy"] == 1.0
    pruner.save_pretrained(tmp_path / "saved")
    saved = SNPPruner.from_pretrained(tmp_path / "saved").model.config
    assert saved.label2id == {name: number for number, name in enumerate(perfect.NAMES)}


@st.composite
def wrapped(draw, names):
    """A data set of these classes in one of many wrappers, and what it is called."""
    images, labels = columns(names, 6)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    dataset = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["Subset", "Concat", "Wrapped"]))
        if kind == "Subset":
            dataset = torch_data.Subset(dataset, draw(st.permutations(range(len(dataset)))))
        elif kind == "Concat":
            dataset = torch_data.ConcatDataset([dataset, Folder(["blue", "RED"], 3)])
        else:
            dataset = Wrapped(dataset)
    return dataset


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_names_orders_subsets_and_wrappers(data):
    colours = data.draw(st.permutations(perfect.NAMES))[: data.draw(st.integers(1, 4))]
    spell = data.draw(st.sampled_from([str, str.upper, str.title, lambda name: name.replace(" ", "_") + " "]))
    dataset = data.draw(wrapped([spell(name) for name in colours]))
    model = SNPPruner(perfect.model(), perfect.processor()).model
    pixels = pixel_dataset(dataset, model.config, perfect.processor(), with_labels=True)
    for index in range(len(pixels)):
        try:
            item = pixels[index]
        except ValueError:
            continue  # told, not guessed
        with torch.inference_mode():
            assert model(item["pixel_values"].unsqueeze(0)).logits.argmax().item() == item["labels"]

"""What a label is, by the model's problem_type; what is none is refused before a number comes of it."""

import datasets
import numpy as np
import pytest
import torch

from optimum_snp.data import pixel_dataset, problem_type
from tests.data import perfect


PIXELS = torch.zeros(3, perfect.SIZE, perfect.SIZE)


def read(labels, label_map=None, features=None, names=perfect.NAMES, **config):
    """The labels as a model of four classes takes them, of pairs or, with `features`, of a column."""
    dataset = [(PIXELS, label) for label in labels]
    if features is not None:
        columns = {"pixel_values": [PIXELS.tolist()] * len(labels), "label": labels}
        kinds = datasets.Features(pixel_values=datasets.Array3D(tuple(PIXELS.shape), "float32"), label=features)
        dataset = datasets.Dataset.from_dict(columns, features=kinds)
    model = perfect.model(names, **config)
    pixels = pixel_dataset(dataset, model.config, with_labels=True, label_map=label_map)
    return [item["labels"] for item in pixels]


MULTI = {"problem_type": "multi_label_classification"}
REGRESSION = {"problem_type": "regression"}
HOT = [[1, 0, 0, 1], [0, 0, 0, 0]]


def test_problem_types_are_those_of_transformers():
    assert problem_type(perfect.model().config) == "single_label_classification"
    assert problem_type(perfect.model(["x"], ["red"]).config) == "regression"
    assert problem_type(perfect.model(**MULTI).config) == "multi_label_classification"
    with pytest.raises(ValueError, match=r"problem_type must be one of 'single_label_classification', .*got 'other'"):
        problem_type(perfect.model(problem_type="other").config)


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0],
        [np.int64(2), np.uint8(0)],
        torch.tensor([2, 0]),
        [torch.tensor([2]), np.array([0])],
        ["BLUE", "red"],
        ["2", "0"],
    ],
    ids=["int", "numpy", "torch", "arrays of one", "names", "numbers as text"],
)
def test_one_class(labels):
    assert read(labels) == [2, 0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "has no label; training and evaluation need one"),
        (float("nan"), r"has no label \(NaN\)"),
        (0.7, "has the label 0.7; the model tells one class of 4"),
        (1.0, "has the label 1.0; the model tells one class of 4"),
        (np.float32(2), "has the label 2.0; the model tells one class"),
        (True, "has the label True; the model tells one class"),
        ([1, 0, 0, 1], r"has the label \[1, 0, 0, 1\]; .* set problem_type to 'multi_label_classification'"),
        (torch.tensor([0.0, 1.0, 0.0, 0.0]), r"has the label \[0.0, 1.0, 0.0, 0.0\]"),
        (4, "has label 4; the model has 4 labels"),
        (-1, "has label -1; the model has 4 labels"),
        (-100, "has label -100"),
        ("yellow", "has label 'yellow'. .* does not know 'yellow'"),
    ],
)
def test_what_is_no_class_is_refused(label, message):
    with pytest.raises(ValueError, match=f"Item 0 of the dataset {message}"):
        read([label])


@pytest.mark.parametrize(
    ("labels", "features", "message"),
    [
        ([0, 1, -1], datasets.ClassLabel(names=perfect.NAMES), r"Item 2 of the dataset has no label \(-1\)"),
        ([0.5, 1.5], datasets.Value("float32"), "Item 0 of the dataset has the label 0.5"),
        ([0, 9], datasets.Value("int64"), "Item 1 of the dataset has label 9; the model has 4"),
        ([0, None], datasets.Value("int64"), "Item 1 of the dataset has no label"),
        (["red", "yellow"], datasets.Value("string"), "does not know 'yellow'"),
        (HOT, datasets.Sequence(datasets.Value("int64")), r"Item 0 of the dataset has the label \[1, 0, 0, 1\]"),
    ],
)
def test_columns_are_checked_before_an_image_is_read(labels, features, message):
    columns = {"pixel_values": [[[[float("nan")]]]] * len(labels), "label": labels}
    kinds = datasets.Features(pixel_values=datasets.Array3D((1, 1, 1), "float32"), label=features)
    dataset = datasets.Dataset.from_dict(columns, features=kinds)
    with pytest.raises(ValueError, match=message):
        pixel_dataset(dataset, perfect.model().config, with_labels=True)


def test_names_in_a_column_tell_each_other_apart():
    names = ["crane", "crane2", "tench"]
    model = ["tench, Tinca tinca", "crane bird", "construction crane"]
    assert read(names, features=datasets.Value("string"), names=[*model, "x"]) == [1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "features"),
    [
        (HOT, None),
        (torch.tensor(HOT), None),
        (torch.tensor(HOT).float(), None),
        ([["red", "DARK_RED"], []], None),
        (HOT, datasets.Sequence(datasets.Value("int64"))),
        ([[3, 0], []], datasets.Sequence(datasets.ClassLabel(names=perfect.NAMES))),
        ([[1, 2], []], datasets.Sequence(datasets.ClassLabel(names=["blue", "Red", "dark-red", "green"]))),
        ([["red", "dark red"], []], datasets.Sequence(datasets.Value("string"))),
    ],
)
def test_several_classes(labels, features):
    for found, expected in zip(read(labels, features=features, **MULTI), HOT, strict=True):
        assert found.dtype == torch.float32
        assert found.tolist() == expected


def test_several_classes_of_a_dataset_with_names_of_its_own():
    class Named(torch.utils.data.Dataset):
        classes = ("blue", "green", "red", "dark red")

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return PIXELS, [0, 1, 1, 0]

    item = pixel_dataset(Named(), perfect.model(**MULTI).config, with_labels=True)[0]
    assert item["labels"].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    "label", [2, "red", [0, 1], [0, 1, 2, 0], [0.5, 0, 0, 0], [0, 1, float("nan"), 0], [[1], [0], [0], [0]]]
)
def test_what_is_no_set_of_classes_is_refused(label):
    with pytest.raises(ValueError, match=r"Item 0 of the dataset has the label .* a list of 4 zeros and ones"):
        read([label], **MULTI)


def test_numbers():
    one = pixel_dataset([(PIXELS, 0.7), (PIXELS, 2)], perfect.model(["x"], ["red"]).config, with_labels=True)
    assert [item["labels"] for item in one] == [0.7, 2.0]
    assert read([[0.5, 1, 2, -3]], **REGRESSION)[0].tolist() == [0.5, 1, 2, -3]


@pytest.mark.parametrize("label", ["red", True, [0.5, 1], float("inf"), None])
def test_what_is_no_number_is_refused(label):
    with pytest.raises(ValueError, match=r"Item 0 of the dataset has (the|no) label"):
        pixel_dataset([(PIXELS, label)], perfect.model(["x"], ["red"]).config, with_labels=True)[0]


def test_classes_are_no_numbers():
    with pytest.raises(ValueError, match=r"predicts numbers .* but the dataset's labels are classes"):
        read([0, 1], features=datasets.ClassLabel(names=perfect.NAMES), **REGRESSION)


def test_label_map_of_numbers_and_texts():
    assert read([7, 1, "7"], {7: "blue", "1": "red"}) == [2, 0, 2]
    assert read(["azure", "red"], {"azure": "blue"}) == [2, 0]
    with pytest.raises(ValueError, match="label_map names 'yellow', which is no class of the model"):
        read(["red"], {"azure": "yellow"})

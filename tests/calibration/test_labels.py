"""Which class of a model each class of a data set is."""

from types import SimpleNamespace

import pytest

from optimum_snp.calibration.labels import label_ids


def config(*names):
    return SimpleNamespace(
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}, num_labels=len(names)
    )


@pytest.mark.parametrize(
    ("names", "model", "expected"),
    [
        (["cat", "dog"], ["dog", "ox", "cat"], {0: 2, 1: 0}),
        (["cat", "dog"], ["cat", "dog"], {}),
        (["cat", "dog"], ["LABEL_0", "LABEL_1", "LABEL_2"], {}),
        ([], ["cat", "dog"], {}),
        (["n01440764", "n01443537"], ["tench", "goldfish"], {}),
        (["Katze", "Hund"], ["cat", "dog"], {}),
        # ImageNet: two classes of one name are two names in a data set, whose order counts.
        ([*map(str, range(150)), "crane2"], [*map(str, range(150)), "7"], {}),
    ],
)
def test_classes_are_matched_by_name_and_else_by_number(names, model, expected):
    assert label_ids(names, config(*model)) == expected


@pytest.mark.parametrize(
    ("names", "unknown"), [(["cat", "zebra"], "'zebra'"), (["yak"], "'yak'"), (list("abcde"), "'a', 'b', 'c', …")]
)
def test_other_classes_are_refused(names, unknown):
    with pytest.raises(ValueError, match=f"of which the model with its 2 does not know {unknown}"):
        label_ids(names, config("cat", "dog"))


def test_names_in_another_way_are_told(caplog):
    label_ids(["Katze", "Hund"], config("cat", "dog"))
    assert "'Katze' and 'cat', for example" in caplog.text

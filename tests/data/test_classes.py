"""Which class of a model each class of a data set is."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_snp.data.classes import ModelClasses, number_names
from optimum_snp.data.names import imagenet_classes, normalised


IDS, IMAGENET = list(imagenet_classes()), list(imagenet_classes().values())


@pytest.mark.parametrize(
    ("names", "model", "expected"),
    [
        (["cat", "dog"], ["dog", "ox", "cat"], [2, 0]),
        (["cat", "dog"], ["cat", "dog"], [0, 1]),
        (["RED", "dark_blue ", "light-green"], ["Light Green", "red", "dark blue"], [1, 2, 0]),
        (["C", "c++", "C#"], ["c#", "c++", "c"], [2, 1, 0]),
        (["<5", ">5"], [">5", "<5"], [1, 0]),
        (["-1", "0", "1"], ["1", "0", "-1"], [2, 1, 0]),
        (["2", "10", "0"], [f"name {n}" for n in range(11)], [2, 10, 0]),
        (["02", "10"], [f"LABEL_{n}" for n in range(11)], [2, 10]),
        (["cat", "dog", "ox"], ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2]),
        (["n01440764", "n01443537"], ["goldfish, Carassius auratus", "cat", "tench"], [2, 0]),
        (["tench", "goldfish"], ["n01443537", "n01440764"], [1, 0]),
        (["Tinca tinca"], ["goldfish", "tench, Tinca tinca"], [1]),
        (["n01443537"], [f"LABEL_{n}" for n in range(1000)], [1]),
        (["Île", "café"], ["CAFE\u0301", "I\u0302le"], [1, 0]),
    ],
)
def test_classes_are_matched_by_name(names, model, expected):
    assert ModelClasses(model).match(names) == expected


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (["cat", "zebra"], ["cat", "dog"], "with its 2 does not know 'zebra'. The model's are 'cat', 'dog'"),
        (list("abcde"), ["cat", "dog"], "does not know 'a', 'b', 'c', …"),
        (["Katze", "Hund"], ["cat", "dog"], "label_map={'Katze': "),
        (["cat", "dog"], ["LABEL_0", "LABEL_1", "LABEL_2"], "has 3 without names"),
        (["1", "2", "3"], ["LABEL_0", "LABEL_1", "LABEL_2"], "has 3 without names"),
        (["cat", "1"], ["cat", "dog"], "does not know '1'"),
        (["0", "5"], ["cat", "dog"], "does not know '0', '5'"),
        (["cat"], ["cat", "cat"], r"could be the model's 0 \('cat'\) and 1 \('cat'\)"),
        (["cat", "Cat"], ["cat", "dog"], "'cat', 'Cat' of the dataset would all be the model's 'cat'"),
        (["tench", "goldfish"], [f"LABEL_{n}" for n in range(1000)], "has 1000 without names"),
        (["crane"], IMAGENET, r"134 \('crane'\) and 517 \('crane'\)"),
        (["red, round"], ["red, square", "blue, round"], "does not know 'red, round'"),
    ],
)
def test_what_cannot_be_told_is_refused(names, model, message):
    with pytest.raises(ValueError, match=message):
        ModelClasses(model).match(names)


@pytest.mark.parametrize("model", [IMAGENET, IDS, [f"LABEL_{n}" for n in range(1000)]], ids=["names", "ids", "none"])
def test_imagenet_by_wordnet_ids(model):
    assert ModelClasses(model).match(IDS) == list(range(1000))


def test_imagenet_by_the_names_of_its_data_set():
    """There the second of the two cranes is called crane2; models call both crane."""
    names = [*IMAGENET]
    names[517] = "crane2"
    assert ModelClasses(IMAGENET).match(names) == list(range(1000))


def test_imagenet_in_an_order_of_the_models_own():
    order = [number for number in range(1000) if IMAGENET[number] != "crane"]
    random.Random(0).shuffle(order)
    model = ModelClasses([IMAGENET[number] for number in order])
    assert [order[number] for number in model.match([IDS[number] for number in sorted(order)])] == sorted(order)


def test_label_map_goes_first_and_may_join_classes():
    model = ModelClasses(["red", "blue"])
    assert model.match(["crimson", "Red", "azure"], {"crimson": "RED", "azure": 1}) == [0, 0, 1]
    assert model.match(["red", "blue"], {"red": "blue", "blue": "red"}) == [1, 0]
    assert ModelClasses(["LABEL_0", "LABEL_1", "LABEL_2"]).match(["b", "a"], {"B": 2, "a": "LABEL_0"}) == [2, 0]
    for wrong in ("green", 2, -1):
        with pytest.raises(ValueError, match=f"label_map names {wrong!r}, which is no class of the model"):
            model.match(["crimson", "blue"], {"crimson": wrong})


@pytest.mark.parametrize("label2id", [None, {"a": "0", "b": "1"}, {"LABEL_0": 0, "LABEL_1": 1}, {"a": 1, "b": 0}])
def test_id2label_is_the_truth(label2id):
    config = SimpleNamespace(id2label={"0": "a", 1: "b"}, label2id=label2id)
    assert ModelClasses.of(config).match(["b", "a"]) == [1, 0]
    number_names(config)
    assert config.label2id == {"a": 0, "b": 1}


def test_id2label_that_does_not_count_from_zero_is_refused():
    with pytest.raises(ValueError, match="must have the numbers from 0 to 1, got 1, 2"):
        ModelClasses.of(SimpleNamespace(id2label={1: "a", 2: "b"}))


def respelled(draw, name):
    """The same name in another spelling."""
    words = draw(st.sampled_from(["_", " ", "-", "  ", " - ", "__"])).join(name.split())
    change = draw(st.sampled_from([str.upper, str.lower, str.title, str]))
    before, after = draw(
        st.sampled_from([("", ""), (" ", ""), ("", " "), ("_", "_"), ("(", ")"), ('"', '"'), ("", ".")])
    )
    return f"{before}{change(words)}{after}"


WORDS = st.text("abcdefghijklmnopqrstuvwxyzäéñ", min_size=2, max_size=6)
CLASS_NAMES = st.lists(
    st.lists(WORDS, min_size=1, max_size=3).map(" ".join), min_size=2, max_size=12, unique_by=normalised
)


@settings(max_examples=200, deadline=None)
@given(st.data(), CLASS_NAMES)
def test_any_spelling_order_and_subset_gives_the_right_class(data, names):
    order = data.draw(st.permutations(range(len(names))))
    chosen = order[: data.draw(st.integers(1, len(names)))]
    spelled = [respelled(data.draw, names[number]) for number in chosen]
    assert ModelClasses(names).match(spelled) == list(chosen)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=5), CLASS_NAMES)
def test_names_match_in_their_own_spelling_or_are_refused(found, names):
    try:
        numbers = ModelClasses(names).match(found)
    except ValueError:
        return
    by_number = all(name.strip().isdecimal() for name in found)
    for name, number in zip(found, numbers, strict=True):
        assert normalised(name) == normalised(names[number]) or (by_number and int(name) == number)

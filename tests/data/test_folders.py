"""Folders of images: what is read as an image, a class and a split, and what is refused."""

import logging
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from optimum_snp.data import load_image_folder, pixel_dataset
from tests.data import perfect


def build(root, *names, colour="red"):
    """Files of one pixel colour, or junk where the ending is none of an image."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"):
            perfect.image_of(colour).save(path, "PNG")
        else:
            path.write_text("junk")
    return root


def found(dataset):
    """Each file with its class, or `None`."""
    names = dataset.features["label"].names if "label" in dataset.features else None
    undecoded = dataset.with_format("arrow")[:]
    paths = [row["path"] for row in undecoded["image"].to_pylist()]
    labels = undecoded["label"].to_pylist() if names else [None] * len(paths)
    return {path: None if label is None else names[label] for path, label in zip(paths, labels, strict=True)}


JUNK = [
    ".git/objects/a.png",
    ".ipynb_checkpoints/b.png",
    "__MACOSX/._c.png",
    "@eaDir/d.png",
    "Thumbs.db",
    "desktop.ini",
    ".DS_Store",
    "docs/readme.md",
    "labels.csv",
]

LAYOUTS = [
    ("train", "test"),
    ("Train", "Test"),
    ("TRAIN", "VAL"),
    ("train", "dev"),
    ("training", "testing"),
    ("train", "eval"),
    ("train", "valid"),
    ("training set", "validation set"),
    ("seg_train", "seg_test"),
    ("images_train", "images_val"),
    ("train2017", "val2017"),
    ("images/train", "images/test"),
    ("data/pets/train", "data/pets/test"),
    ("train/images", "test/images"),
    ("seg_train/seg_train", "seg_test/seg_test"),
]


@pytest.mark.parametrize(("train", "other"), LAYOUTS)
@pytest.mark.parametrize("junk", [[], JUNK], ids=["clean", "junk"])
def test_splits_are_never_merged(train, other, junk, tmp_path):
    build(tmp_path, *junk, *(f"{train}/{name}/1.png" for name in "ab"), *(f"{other}/{name}/2.png" for name in "abc"))
    dataset = load_image_folder(tmp_path)
    assert found(dataset) == {str(tmp_path / train / name / "1.png"): name for name in "ab"}
    split = "test" if "test" in other.lower() else "validation"
    assert found(load_image_folder(tmp_path, split)) == {
        str(tmp_path / other / name / "2.png"): name for name in "abc"
    }
    with pytest.raises(ValueError, match=rf"has the splits 'train', '{split}'. Name the folder of one of them"):
        load_image_folder(tmp_path, None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a/1.png", "test/a/1.png", "extra/a/1.png"], "some named after splits and others not"),
        (["val/a/1.png", "valid/a/1.png"], "two of them for one split"),
        (["train1/a/1.png", "train2/a/1.png"], "two of them for one split"),
        (["train/a/1.png", "backup/a/1.png"], "of which 'train' holds folders itself"),
        (["cat_train/1.png", "cat_test/1.png", "dog_train/1.png"], "some named after splits and others not"),
    ],
)
def test_doubt_is_refused_with_what_was_seen(names, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load_image_folder(build(tmp_path, *names))
    assert all(repr(name.split("/")[0]) in str(caught.value) for name in names)


def test_a_class_may_be_called_like_a_split(tmp_path):
    dataset = load_image_folder(build(tmp_path, "train/test_3.png", "car/train_1.png", "bus_test/x.png"))
    assert sorted(found(dataset).values()) == ["bus_test", "car", "train"]


def test_the_class_is_the_first_folder_below_the_split(tmp_path):
    names = ["train/cat/day1/1.png", "train/cat/day2/x/2.png", "train/dog/day1/3.png", "train/dog/4.png"]
    dataset = load_image_folder(build(tmp_path, *names, "test/cat/5.png"))
    assert found(dataset) == {str(tmp_path / name): name.split("/")[1] for name in names}


@pytest.mark.parametrize(
    "folder", ["run[12]", "set*", "a?", "my[1] set", "a::b", "two  blanks", "bücher ü", "{x}", "!y", "~z", "a'b"]
)
def test_a_name_is_no_pattern(folder, tmp_path):
    build(tmp_path, *(f"{other}/cat/wrong.png" for other in ("run1", "set9", "ab", "my1 set")))
    build(tmp_path, f"{folder}/c[at]/1.png", f"{folder}/d*g/2?.png")
    dataset = load_image_folder(tmp_path / folder)
    assert found(dataset) == {
        str(tmp_path / folder / "c[at]" / "1.png"): "c[at]",
        str(tmp_path / folder / "d*g" / "2?.png"): "d*g",
    }
    assert all(item["image"].size == (16, 16) for item in dataset)


def test_links_are_followed_and_loops_end(tmp_path):
    store = build(tmp_path / "store", "cats/1.png", "one.png")
    root = build(tmp_path / "root", "dog/2.png")
    (root / "cat").symlink_to(store / "cats")
    (root / "dog" / "linked.png").symlink_to(store / "one.png")
    (root / "dog" / "back").symlink_to(root)
    (root / "dog" / "itself").symlink_to(root / "dog")
    dataset = load_image_folder(root)
    assert found(dataset) == {
        str(root / "cat" / "1.png"): "cat",
        str(root / "dog" / "2.png"): "dog",
        str(root / "dog" / "linked.png"): "dog",
    }
    assert len([item["image"] for item in dataset]) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_and_devices_are_no_images(tmp_path, caplog):
    """To open a pipe waits for somebody who writes to it."""
    caplog.set_level(logging.INFO)
    root = build(tmp_path / "root", "cat/1.png", "dog/2.png")
    os.mkfifo(root / "dog" / "pipe.png")
    (root / "dog" / "linked.png").symlink_to(root / "dog" / "pipe.png")
    (root / "dog" / "zeros.png").symlink_to("/dev/zero")
    assert found(load_image_folder(root)) == {str(root / "cat" / "1.png"): "cat", str(root / "dog" / "2.png"): "dog"}
    assert "Other files were left out: 3 .png" in caplog.text


def test_endings_of_any_case_and_ones_that_lie(tmp_path):
    build(tmp_path, "cat/1.PNG", "cat/2.JPeG", "cat/3.bmp", "dog/4.jpg")  # all of them are PNG inside
    dataset = load_image_folder(tmp_path)
    assert len(dataset) == 4
    assert all(item["image"].format == "PNG" for item in dataset)


def test_a_stray_image_is_named(tmp_path, caplog):
    build(tmp_path, "cat/1.png", "dog/2.png", "stray.png")
    caplog.set_level(logging.INFO, logger="optimum_snp")
    dataset = load_image_folder(tmp_path)
    assert f"1 lie beside the folders of classes or splits: {tmp_path / 'stray.png'}" in caplog.text
    model = perfect.model(["cat", "dog", "ox", "yak"])
    assert len(pixel_dataset(dataset, model.config, perfect.processor())) == 3  # without labels it counts
    with pytest.raises(ValueError, match=r"Item 0 of the dataset \(.*stray.png\) has no label"):
        pixel_dataset(dataset, model.config, perfect.processor(), with_labels=True)


def test_a_picture_beside_splits_is_left_out_and_named(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="optimum_snp")
    dataset = load_image_folder(build(tmp_path, "train/cat/1.png", "test/cat/2.png", "overview.png"))
    assert list(found(dataset)) == [str(tmp_path / "train" / "cat" / "1.png")]
    assert "overview.png" in caplog.text


def test_every_folder_says_once_what_was_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="optimum_snp")
    build(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "val/cat/4.png", "train/dog/notes.heic")
    load_image_folder(tmp_path)
    assert caplog.messages == [
        f"{tmp_path / 'train'}: 3 images of 2 classes in split 'train'. Other files were left out: 1 .heic."
    ]
    caplog.clear()
    load_image_folder(build(tmp_path / "flat", "1.png"))
    assert caplog.messages == [f"{tmp_path / 'flat'}: 1 image of no classes in split 'train'."]


def test_images_of_another_kind_are_named_where_there_are_no_others(tmp_path):
    with pytest.raises(ValueError, match=r"has no image that can be read. Other files were left out: 2 .heic, 1 .txt"):
        load_image_folder(build(tmp_path, "a/1.heic", "a/2.HEIC", "b.txt"))


def test_no_folder(tmp_path):
    for path in (tmp_path / "none", build(tmp_path, "file.png") / "file.png"):
        with pytest.raises(ValueError, match="is no folder of images"):
            load_image_folder(path)


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=8
).filter(lambda name: not name.startswith(".") and len(name.encode()) < 60)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_trees_with_junk_keep_their_splits_and_classes(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    splits = data.draw(st.sampled_from([None, ("train", "test"), ("Training", "Validation"), ("x_train", "x_val")]))
    classes = data.draw(st.lists(NAMES.map(lambda name: f"class {name}"), min_size=1, max_size=4, unique=True))
    depths = data.draw(st.lists(st.sampled_from(["", "day1/", "a/b/"]), min_size=len(classes), max_size=len(classes)))
    junk = data.draw(st.lists(st.sampled_from(JUNK), unique=True))
    folder = f"{splits[0]}/" if splits else ""
    expected = {}
    for name, depth in zip(classes, depths, strict=True):
        build(root, path := f"{folder}{name}/{depth}1.png")
        expected[str(root / path)] = name
        if splits:
            build(root, f"{splits[1]}/{name}/2.png")
    build(root, *(f"{place}{name}" for name in junk for place in ("", folder)))
    names = load_image_folder(root)
    assert set(found(names)) == set(expected)
    assert {path: os.path.relpath(path, root / folder).split(os.sep)[0] for path in expected} == expected


def test_folders_of_the_perfect_model(tmp_path):
    """Names in another order and spelling, in a nested split: every image gets its class."""
    for split in ("Train", "Test"):
        for name in perfect.NAMES:
            path = tmp_path / split / name.upper().replace(" ", "_") / "day1"
            path.mkdir(parents=True)
            perfect.image_of(name).save(path / "1.png")
    model = perfect.model()
    dataset = pixel_dataset(tmp_path, model.config, perfect.processor(), with_labels=True)
    for item in dataset:
        assert model(item["pixel_values"].unsqueeze(0)).logits.argmax().item() == item["labels"]
    assert len(dataset) == 4
    assert isinstance(dataset.dataset[0]["image"], Image.Image)

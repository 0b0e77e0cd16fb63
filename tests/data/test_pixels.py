"""Every kind of dataset reads as the same pixel values; bad ones are refused by name."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from optimum_snp.data import calibration_subset, load_image_folder, pixel_dataset
from optimum_snp.families import convert


@pytest.fixture
def config(source):
    return convert(source).config


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (40, 36, 3), dtype=np.uint8)) for _ in range(4)]


@pytest.fixture
def expected(images, image_processor):
    return image_processor(images=images, return_tensors="pt")["pixel_values"]


def hf_dataset(images, **columns):
    features = datasets.Features(
        {"photo": datasets.Image(), **{name: datasets.Value("int64") for name in columns}},
    )
    return datasets.Dataset.from_dict({"photo": images, **columns}, features=features)


class Listed(torch.utils.data.Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Streamed(torch.utils.data.IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


KINDS = {
    "datasets.Dataset": lambda images, pixels: hf_dataset(images),
    "datasets.IterableDataset": lambda images, pixels: hf_dataset(images).to_iterable_dataset(),
    "torch images": lambda images, pixels: Listed(images),
    "torch arrays": lambda images, pixels: Listed([np.asarray(image) for image in images]),
    "torch bytes": lambda images, pixels: Listed([torch.tensor(np.asarray(i)).permute(2, 0, 1) for i in images]),
    "datasets as torch": lambda images, pixels: hf_dataset(images).with_format("torch"),
    "torch pairs": lambda images, pixels: Listed([(image, 1) for image in images]),
    "torch dicts": lambda images, pixels: Listed([{"pixel_values": image, "labels": 1} for image in pixels]),
    "torch pixel pairs": lambda images, pixels: Listed([(image, 1) for image in pixels]),
    "torch stream": lambda images, pixels: Streamed(images),
    "list": lambda images, pixels: list(images),
    "tensor": lambda images, pixels: pixels,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_pixels(kind, images, expected, config, image_processor):
    dataset = pixel_dataset(KINDS[kind](images, expected), config, image_processor)
    subset = calibration_subset(dataset, 4, seed=0)
    found = sorted((item["pixel_values"] for item in subset), key=lambda image: image.sum().item())
    for one, other in zip(found, sorted(expected, key=lambda image: image.sum().item()), strict=True):
        torch.testing.assert_close(one, other)


def test_folder(image_folder, config, image_processor):
    dataset = pixel_dataset(image_folder, config, image_processor, with_labels=True)
    assert len(dataset) == 10
    assert dataset[0]["pixel_values"].shape == (3, 32, 32)
    assert sorted(item["labels"] for item in dataset) == [0] * 5 + [1] * 5


def test_grey_images_become_rgb(config, image_processor):
    grey = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))
    pixels = pixel_dataset([grey], config, image_processor)[0]["pixel_values"]
    assert pixels.shape == (3, 32, 32)


def test_labels_by_feature_name_and_column(images, config, image_processor):
    dataset = hf_dataset(images, label=[3, 1, 0, 2])
    labels = [item["labels"] for item in pixel_dataset(dataset, config, image_processor, with_labels=True)]
    assert labels == [3, 1, 0, 2]
    renamed = dataset.rename_column("label", "digit")
    with pytest.raises(ValueError, match=r"The column of labels is not clear; the columns are 'photo', 'digit'"):
        pixel_dataset(renamed, config, image_processor, with_labels=True)
    named = pixel_dataset(renamed, config, image_processor, with_labels=True, label_column="digit")
    assert named[2]["labels"] == 0


def test_classes_are_matched_by_name(images, config, image_processor):
    config.id2label, config.label2id = {0: "dog", 1: "cat"}, {"dog": 0, "cat": 1}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    dataset = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features=features)
    labels = [item["labels"] for item in pixel_dataset(dataset, config, image_processor, with_labels=True)]
    assert labels == [1, 0, 0, 1]


def test_subset_is_random_by_seed_and_without_repetition(expected, config):
    pixels = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 3, 32, 32)
    dataset = pixel_dataset(pixels, config)

    def choice(seed):
        return [int(item["pixel_values"][0, 0, 0]) for item in calibration_subset(dataset, 20, seed)]

    assert choice(1) == choice(1) != choice(2)
    assert len(set(choice(1))) == 20


def test_stream_gives_its_first(config):
    dataset = pixel_dataset(Streamed(torch.arange(50.0).view(50, 1, 1, 1).expand(50, 3, 32, 32)), config)
    assert [int(item["pixel_values"][0, 0, 0]) for item in calibration_subset(dataset, 3, seed=7)] == [0, 1, 2]


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, True])
def test_number_of_samples(num_samples, expected, config):
    with pytest.raises(ValueError, match="must be a positive integer"):
        calibration_subset(pixel_dataset(expected, config), num_samples, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: [], "The dataset is empty"),
        (lambda images: torch.zeros(0, 3, 32, 32), "The dataset is empty"),
        (lambda images: hf_dataset([]), "The dataset is empty"),
        (lambda images: hf_dataset(images, n=[1] * 4).remove_columns("photo"), "no column of images"),
        (lambda images: torch.zeros(3, 32, 32), r"must be \[N, C, H, W\], got the shape \(3, 32, 32\)"),
        (lambda images: "/no/such/folder", "/no/such/folder is no folder of images"),
    ],
)
def test_datasets_that_cannot_be_used(make, message, images, config, image_processor):
    with pytest.raises(ValueError, match=message):
        pixel_dataset(make(images), config, image_processor)


def test_empty_stream(config):
    with pytest.raises(ValueError, match="The dataset is empty"):
        calibration_subset(pixel_dataset(Streamed([]), config), 4, seed=0)


def test_empty_folder(tmp_path, config):
    with pytest.raises(ValueError, match="no image that can be read"):
        pixel_dataset(tmp_path, config)


def test_two_columns_of_images_need_a_name(images, expected, config, image_processor):
    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"left": images, "right": images}, features=features)
    with pytest.raises(ValueError, match=r"several columns of images \(left, right\).*image_column"):
        pixel_dataset(dataset, config, image_processor)
    chosen = pixel_dataset(dataset, config, image_processor, image_column="right")
    torch.testing.assert_close(chosen[0]["pixel_values"], expected[0])
    with pytest.raises(ValueError, match="no column 'middle'; it has 'left', 'right'"):
        pixel_dataset(dataset, config, image_processor, image_column="middle")


def test_unsupported_kinds(config, images):
    with pytest.raises(TypeError, match="type int is not supported"):
        pixel_dataset(3, config)
    with pytest.raises(TypeError, match=r"Pass one split of the dataset, not all; it has 'train'\."):
        pixel_dataset(datasets.DatasetDict({"train": hf_dataset(images)}), config)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(3, 16, 16), r"Image 1 .* shape \(3, 16, 16\); the model reads \(3, 32, 32\)"),
        (torch.zeros(1, 32, 32), r"Image 1 .* shape \(1, 32, 32\); the model reads \(3, 32, 32\)"),
        (torch.full((3, 32, 32), float("nan")), "Image 1 .* NaN or infinite"),
        (np.zeros((32, 32, 3)), "Item 1 .* array of float64"),
        ("a text", "Item 1 of the dataset is no image but str"),
        ({"text": "a"}, "has no 'image'; it has 'text'"),
    ],
)
def test_items_that_cannot_be_used(item, message, config, image_processor):
    dataset = pixel_dataset([torch.zeros(3, 32, 32), item], config, image_processor)
    with pytest.raises(ValueError, match=message):
        list(calibration_subset(dataset, 2, seed=0))


def test_unreadable_files_are_named(image_folder, config, image_processor):
    dataset = pixel_dataset(image_folder, config, image_processor)
    path = image_folder / "0" / "4.png"
    path.write_bytes(path.read_bytes()[:70])  # cut short
    with pytest.raises(ValueError, match=r"Image \d of the dataset \(.*/0/4.png\) cannot be read"):
        list(calibration_subset(dataset, 10, seed=0))
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"Image \d of the dataset \(.*/0/4.png\) cannot be read"):
        list(calibration_subset(dataset, 10, seed=0))


def test_images_need_a_processor(images, config):
    with pytest.raises(ValueError, match="came without an image processor"):
        pixel_dataset(images, config)[0]


@pytest.mark.parametrize(("label", "message"), [(5, "has label 5; the model has 5 labels"), (-1, "has label -1")])
def test_labels_out_of_range(label, message, expected, config):
    dataset = pixel_dataset([(expected[0], label)], config, with_labels=True)
    with pytest.raises(ValueError, match=message):
        dataset[0]


def test_missing_label(expected, config):
    with pytest.raises(ValueError, match="Item 0 of the dataset has no label"):
        pixel_dataset(expected, config, with_labels=True)[0]


def test_names_of_files_and_classes_are_no_splits(tmp_path, images, config, image_processor):
    for name in ("car/train_1.png", "car/dev_2.png", "train/test_3.png", "train/val_4.png"):
        (tmp_path / "vehicles" / name).parent.mkdir(parents=True, exist_ok=True)
        images[0].save(tmp_path / "vehicles" / name)
    config.id2label = {0: "train", 1: "car"}
    dataset = pixel_dataset(tmp_path / "vehicles", config, image_processor, with_labels=True)
    assert sorted(item["labels"] for item in dataset) == [0, 0, 1, 1]

    (tmp_path / "flat").mkdir()
    images[0].save(tmp_path / "flat" / "ILSVRC2012_val_00000001.png")
    assert len(pixel_dataset(tmp_path / "flat", config, image_processor)) == 1


def test_folders_of_splits(tmp_path, images):
    for name in ("train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png", "val/dog/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        images[0].save(tmp_path / name)
    assert len(load_image_folder(tmp_path)) == 2
    validation = load_image_folder(tmp_path, "validation")
    assert validation["label"] == [0, 1, 1]
    assert validation.features["label"].names == ["cat", "dog"]
    with pytest.raises(ValueError, match="has no split 'test', only 'train', 'validation'"):
        load_image_folder(tmp_path, "test")


def test_transforms_and_mapped_streams_are_read_by_their_items(images, expected, config, image_processor):
    def prepare(batch):
        return {"pixel_values": list(image_processor(images=batch["photo"], return_tensors="pt")["pixel_values"])}

    dataset = hf_dataset(images, label=[3, 1, 0, 2])
    for prepared in (
        dataset.with_transform(lambda batch: prepare(batch) | {"labels": batch["label"]}),
        dataset.map(prepare, batched=True, remove_columns="photo"),  # lists of floats
        dataset.to_iterable_dataset().map(lambda row: row),
    ):
        pixels = pixel_dataset(prepared, config, image_processor, with_labels=True)
        items = list(pixels) if not hasattr(pixels, "__len__") else [pixels[index] for index in range(4)]
        assert [item["labels"] for item in items] == [3, 1, 0, 2]
        for item, one in zip(items, expected, strict=True):
            torch.testing.assert_close(item["pixel_values"], one)


def test_labels_by_name(expected, config):
    config.id2label, config.label2id = {0: "dog", 1: "cat"}, None
    dataset = pixel_dataset([(expected[0], "cat"), (expected[0], "cow")], config, with_labels=True)
    assert dataset[0]["labels"] == 1
    with pytest.raises(
        ValueError, match=r"Item 1 of the dataset has label 'cow'. The dataset has 1 classes, of which .* 'dog', 'cat'"
    ):
        dataset[1]


def test_unreadable_image_of_a_stream_is_named(image_folder, config, image_processor):
    (image_folder / "0" / "4.png").write_text("no image")
    stream = load_image_folder(image_folder).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"Image 2 of the dataset \(.*/0/4.png\) cannot be read"):
        list(calibration_subset(pixel_dataset(stream, config, image_processor), 10, seed=0))
    with pytest.raises(ValueError, match=r"Image 2 of the dataset \(.*/0/4.png\) cannot be read"):
        list(pixel_dataset(stream, config, image_processor))


def test_streams_that_are_too_short_to_share_are_refused(config):
    items = [{"pixel_values": torch.zeros(3, 32, 32)}] * 2
    stream = pixel_dataset(datasets.IterableDataset.from_generator(lambda: iter(items)), config)
    assert len(list(stream)) == 2
    stream.least_images = 4
    with pytest.raises(ValueError, match="The stream has 2 images"):
        list(stream)
    empty = pixel_dataset(datasets.IterableDataset.from_generator(lambda: iter([])), config)
    with pytest.raises(ValueError, match=r"The dataset is empty\."):
        list(empty)

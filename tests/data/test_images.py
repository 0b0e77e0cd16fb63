"""Images of every mode, depth and orientation become the pixel values that they mean, or are refused."""

import io

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from transformers import ViTImageProcessorPil

from optimum_snp.data import (
    UnreadableImageError,
    calibration_subset,
    load_image_folder,
    pixel_dataset,
    without_unreadable,
)
from optimum_snp.data.images import eight_bits
from tests.data import perfect


RED = np.array(perfect.COLOURS["red"])


def values_of(image, **config):
    """Mean colour, from 0 to 255, of what the model sees of an image."""
    pixels = pixel_dataset([image], perfect.model(**config).config, perfect.processor())[0]["pixel_values"]
    return ((pixels + 1) * 127.5).mean(dim=(1, 2)).numpy()


def saved(image, file_format, **options):
    """The image as it is read from a file of this format."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def plain(mode="RGB"):
    return Image.new("RGB", (8, 8), tuple(RED)).convert(mode)


def lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(plain(), *profiles, outputMode="LAB")


@pytest.mark.parametrize(
    ("image", "expected", "tolerance"),
    [
        (plain(), RED, 1),
        (plain("RGBA"), RED, 1),
        (plain("RGBA").convert("RGBa"), RED, 1),
        (plain("CMYK"), RED, 1),
        (plain("YCbCr"), RED, 3),
        (plain("HSV"), RED, 3),
        (lab(), RED, 3),
        (plain("P"), RED, 30),  # the palette of the web
        (plain().quantize(4), RED, 1),
        (plain("L").convert("LA"), 87, 1),
        (plain("L").convert("LA").convert("La"), 87, 1),
        (Image.new("1", (8, 8), 1), 255, 0.1),
        (Image.new("1", (8, 8), 0), 0, 0.1),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_modes(image, expected, tolerance):
    np.testing.assert_allclose(values_of(image), expected, atol=tolerance)


def test_transparent_palette():
    image = plain().quantize(4)
    image.info["transparency"] = 0
    np.testing.assert_allclose(values_of(saved(image, "PNG", transparency=0)), RED, atol=1)


@pytest.mark.parametrize("value", [0, 257, 30000, 65535])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", None])
def test_sixteen_bits_are_scaled_to_the_range(value, file_format):
    image = Image.fromarray(np.full((8, 8), value, dtype=np.uint16))
    assert image.mode.startswith("I;16")
    image = saved(image, file_format) if file_format else image
    np.testing.assert_allclose(values_of(image), value / 257, atol=0.6)


def test_sixteen_bits_in_a_pgm_file():
    header = b"P5 4 4 65535\n"
    image = Image.open(io.BytesIO(header + np.full(16, 30000, dtype=">u2").tobytes()))
    np.testing.assert_allclose(values_of(image), 30000 / 257, atol=0.6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((8, 8), 0.5, dtype=np.float32), r"floating-point numbers \(mode 'F'\), whose range is not known"),
        (np.full((8, 8), 70000, dtype=np.int32), r"32-bit integers \(mode 'I'\), whose range is not known"),
    ],
)
@pytest.mark.parametrize("file_format", ["TIFF", None])
def test_depths_of_unknown_range_are_refused(array, message, file_format):
    image = Image.fromarray(array)
    with pytest.raises(ValueError, match=f"Image 0 of the dataset holds {message}.*Save it with 8 or 16 bits"):
        values_of(saved(image, file_format) if file_format else image)


def test_unknown_modes_are_refused():
    class Odd:
        mode, info = "odd", {}

    with pytest.raises(ValueError, match="is of mode 'odd', which is not known"):
        eight_bits(Odd(), "3 of the dataset")


def test_grey_models_see_brightness():
    grey = ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.5], do_convert_rgb=False
    )
    config = perfect.model(num_channels=1).config
    for image, expected in ((plain(), 87), (Image.fromarray(np.full((8, 8), 30000, dtype=np.uint16)), 30000 / 257)):
        pixels = pixel_dataset([image], config, grey)[0]["pixel_values"]
        assert pixels.shape == (1, 16, 16)
        np.testing.assert_allclose(((pixels + 1) * 127.5).mean(), expected, atol=1)


def test_of_animated_images_the_first_is_taken_and_that_is_said(caplog):
    frames = [plain(), Image.new("RGB", (8, 8), "blue")]
    for file_format in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        image = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        image.seek(1)  # where code before may have left it
        caplog.clear()
        np.testing.assert_allclose(values_of(image), RED, atol=2)
        assert image.tell() == 1  # as it was given
        assert "Image 0 of the dataset is animated or has several pages; the first is taken" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("wrap", [list, "pil features", "files"])
def test_images_stand_upright(orientation, wrap, tmp_path):
    """The upper half red, the lower blue, after turning as EXIF says."""
    upright = np.zeros((16, 16, 3), dtype=np.uint8)
    upright[:8], upright[8:] = perfect.COLOURS["red"], perfect.COLOURS["blue"]
    turns = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]}
    turns |= {
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turns[orientation])).save(tmp_path / "a.png", exif=exif)
    dataset = [Image.open(tmp_path / "a.png")]
    if wrap == "pil features":
        dataset = datasets.Dataset.from_dict({"image": dataset}, features=datasets.Features(image=datasets.Image()))
    elif wrap == "files":
        dataset = tmp_path
    pixels = pixel_dataset(dataset, perfect.model().config, perfect.processor())[0]["pixel_values"]
    means = ((pixels + 1) * 127.5).unflatten(1, (2, 8)).mean(dim=(2, 3)).T.numpy()
    np.testing.assert_allclose(means, [perfect.COLOURS["red"], perfect.COLOURS["blue"]], atol=2)


def test_the_mode_that_a_column_asks_for_is_kept():
    features = datasets.Features(image=datasets.Image(mode="L"))
    dataset = datasets.Dataset.from_dict({"image": [plain()]}, features=features)
    pixels = pixel_dataset(dataset, perfect.model().config, perfect.processor())[0]["pixel_values"]
    np.testing.assert_allclose(((pixels + 1) * 127.5).mean(dim=(1, 2)), 87, atol=1)


def test_exif_data_that_cannot_be_read_are_none():
    image = saved(plain(), "JPEG", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_allclose(values_of(image), RED, atol=4)


ARRAYS = {
    "lists": lambda array: array.tolist(),
    "lists, channels first": lambda array: array.transpose(2, 0, 1).tolist(),
    "array": lambda array: array.astype(np.uint8),
    "array, channels first": lambda array: array.transpose(2, 0, 1).astype(np.uint8),
    "integers": lambda array: array.astype(np.int64),
    "uint16": lambda array: array.astype(np.uint16) * 257,
    "tensor": lambda array: torch.tensor(array, dtype=torch.uint8),
    "tensor, channels first": lambda array: torch.tensor(array, dtype=torch.uint8).permute(2, 0, 1),
    "with alpha": lambda array: np.concatenate([array, np.full((*array.shape[:2], 1), 255)], axis=2).astype(np.uint8),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_bytes_are_an_image_and_are_prepared(kind):
    array = np.asarray(perfect.image_of("red", size=(12, 10)))
    np.testing.assert_allclose(values_of(ARRAYS[kind](array)), RED, atol=5)


@pytest.mark.parametrize("kind", ["Array3D", "lists"])
def test_columns_of_bytes_are_images(kind):
    array = np.asarray(perfect.image_of("red"))
    column = {"image": [array.tolist()]}
    features = datasets.Features(image=datasets.Array3D((16, 16, 3), "uint8")) if kind == "Array3D" else None
    dataset = datasets.Dataset.from_dict(column, features=features)
    pixels = pixel_dataset(dataset, perfect.model().config, perfect.processor())[0]["pixel_values"]
    np.testing.assert_allclose(((pixels + 1) * 127.5).mean(dim=(1, 2)), RED, atol=5)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8)])
def test_grey_arrays(shape):
    np.testing.assert_allclose(values_of(np.full(shape, 77, dtype=np.uint8)), 77, atol=1)
    np.testing.assert_allclose(values_of(np.ones(shape, dtype=bool)), 255, atol=1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 3), dtype=np.uint8), "whose channels cannot be told"),
        (np.zeros((8, 8, 2), dtype=np.uint8), r"array of uint8 with shape \(8, 8, 2\)"),
        (np.zeros((8, 8, 3)), "array of float64"),
        (np.full((8, 8), 300), "with values from 300 to 300; those of an image go from 0 to 255"),
        (np.full((8, 8), -1), "with values from -1 to -1"),
        (([[1, 2], [3]], 0), "a list of rows of different lengths"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "shape"),
    ],
)
def test_arrays_that_cannot_be_told_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        values_of(array)


def test_float_values_are_ready_and_those_far_outside_are_told(caplog):
    config = perfect.model().config
    ready = perfect.processor()(images=plain(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_dataset(ready, config, perfect.processor())[0]["pixel_values"], ready[0])
    assert not caplog.messages
    taken = pixel_dataset([(ready[0] + 1) * 127.5] * 2, config, perfect.processor())
    torch.testing.assert_close(taken[1]["pixel_values"], (ready[0] + 1) * 127.5)
    assert taken[0] is not None
    assert len(caplog.messages) == 1
    assert "which are taken as pixel values, and the image processor puts out -1 to 1" in caplog.text


def test_models_and_processors_that_cannot_read_images_are_told_before_any_work():
    image = [plain()]
    column = datasets.Dataset.from_dict({"image": image}, features=datasets.Features(image=datasets.Image()))
    config, four = perfect.model().config, perfect.model(num_channels=4).config
    with pytest.raises(ValueError, match="came without an image processor"):
        pixel_dataset(column, config)
    with pytest.raises(ValueError, match="image_mean of 3 values, and the model reads 4 channels"):
        pixel_dataset(column, four, perfect.processor())
    processor = perfect.processor()
    processor.do_normalize = False
    with pytest.raises(ValueError, match=r"reads 4 channels, and images have one \(grey\) or three \(RGB\)"):
        pixel_dataset(column, four, processor)
    processor = perfect.processor()
    processor.image_mean = None
    with pytest.raises(ValueError, match=r"is to normalise images .* but has no image_mean"):
        pixel_dataset(image, config, processor)


FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "TGA", "PCX", "SGI", "AVIF"]


def damaged(folder, file_format):
    """A file of this format that ends too soon, and one that never began."""
    path = folder / f"cut.{'png' if file_format == 'PNG' else 'jpg'}"
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, file_format)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 3])
    return path


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_files_are_named_with_their_path(file_format, tmp_path):
    path = damaged(tmp_path, file_format)
    dataset = pixel_dataset(tmp_path, perfect.model().config, perfect.processor())
    with pytest.raises(UnreadableImageError, match=rf"Image 0 of the dataset \({path}\) cannot be read: "):
        dataset[0]


def test_empty_files_and_bombs_are_named(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    plain().resize((64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    dataset = pixel_dataset(tmp_path, perfect.model().config, perfect.processor())
    with pytest.raises(UnreadableImageError, match=r"empty.png\) cannot be read"):
        dataset[0]
    with pytest.raises(UnreadableImageError, match=r"large.png\) cannot be read: .*decompression bomb"):
        dataset[1]


@pytest.fixture
def mixed_folder(tmp_path):
    """Eight images of two classes, three of them unreadable."""
    for number in range(8):
        folder = tmp_path / ("red", "blue")[number % 2]
        folder.mkdir(exist_ok=True)
        perfect.image_of(folder.name, number).save(folder / f"{number}.png")
    for name in ("red/2.png", "blue/5.png"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    (tmp_path / "red" / "4.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_images_are_left_out_counted_and_named(num_workers, mixed_folder, caplog):
    config = perfect.model().config
    pixels = pixel_dataset(mixed_folder, config, perfect.processor(), with_labels=True)
    kept = without_unreadable(pixels, num_workers)
    assert [item["labels"] for item in kept] == [2, 2, 2, 0, 0]
    assert caplog.messages[0].startswith("3 images cannot be read and are left out: ")
    assert all(name in caplog.text for name in ("red/2.png", "blue/5.png", "red/4.png"))
    chosen = calibration_subset(pixels, 4, seed=0, skip_unreadable=True, num_workers=num_workers)
    assert len({item["pixel_values"].sum().item() for item in chosen}) == 4


def test_unreadable_images_of_a_stream_are_left_out(mixed_folder, caplog):
    stream = load_image_folder(mixed_folder).to_iterable_dataset()
    pixels = pixel_dataset(stream, perfect.model().config, perfect.processor(), with_labels=True)
    assert [item["labels"] for item in without_unreadable(pixels)] == [2, 2, 2, 0, 0]
    assert "3 images cannot be read" in caplog.text
    assert len(calibration_subset(pixels, 8, seed=0, skip_unreadable=True)) == 5


def test_unreadable_images_of_a_users_dataset_are_named(mixed_folder):
    class Folder(torch.utils.data.Dataset):
        samples = sorted((str(path), 0) for path in mixed_folder.rglob("*.png"))

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            return Image.open(self.samples[index][0]).convert("RGB"), 2

    pixels = pixel_dataset(Folder(), perfect.model().config, perfect.processor())
    with pytest.raises(UnreadableImageError, match=r"blue/5.png\) cannot be read"):
        list(calibration_subset(pixels, 8, seed=0))
    assert len(without_unreadable(pixels)) == 5


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "a.png").touch()
    pixels = pixel_dataset(tmp_path, perfect.model().config, perfect.processor())
    for skip in (without_unreadable, lambda it: calibration_subset(it, 2, seed=0, skip_unreadable=True)):
        with pytest.raises(ValueError, match="no image that can be read"):
            skip(pixels)


MODES = st.sampled_from(
    ["RGB", "RGBA", "L", "LA", "CMYK", "YCbCr", "HSV", "1", "P", "PA", "RGBa", "La", "I;16", "RGBX"]
)
CONTAINERS = st.sampled_from([None, "PNG", "TIFF", "WEBP", "BMP", "JPEG2000"])


@settings(max_examples=100, deadline=None)
@given(
    mode=MODES,
    file_format=CONTAINERS,
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    size=st.tuples(*[st.integers(4, 40)] * 2),
)
def test_a_known_pixel_has_its_value_whatever_the_mode(mode, file_format, colour, size):
    rgb = Image.new("RGB", size, colour)
    grey = rgb.convert("L").getpixel((0, 0))
    if mode == "I;16":
        file_format = file_format if file_format in ("PNG", "TIFF") else None  # others cut it off when they write
        image = Image.fromarray(np.full(size[::-1], grey * 257, dtype=np.uint16))
    elif mode in ("PA", "RGBa"):
        image = rgb.convert("RGBA").convert(mode)
    elif mode == "La":
        image = rgb.convert("LA").convert(mode)
    else:
        image = rgb.convert(mode, dither=Image.Dither.NONE)
    if file_format is not None:
        try:
            image = saved(image, file_format, **({"lossless": True, "exact": True} if file_format == "WEBP" else {}))
        except (OSError, ValueError, KeyError):
            return  # Pillow does not write this mode so
    expected = {"1": np.full(3, 255 * (grey >= 128)), "I;16": np.full(3, grey)}.get(mode, np.array(colour))
    expected = np.full(3, grey) if mode in ("L", "LA", "La") else expected
    tolerance = {"P": 55, "PA": 55, "YCbCr": 4, "HSV": 8}.get(mode, 1.5)
    found = (pixel_dataset([image], perfect.model().config, perfect.processor())[0]["pixel_values"] + 1) * 127.5
    np.testing.assert_allclose(found[:, 7, 5], expected, atol=tolerance)

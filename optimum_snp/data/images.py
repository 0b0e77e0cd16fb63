"""From an image of any mode, depth and orientation to eight bits as the model's image processor reads them."""

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import BaseImageProcessor

from ..structure import IMAGES, input_shape
from .errors import ItemError, UnreadableImageError


logger = logging.getLogger(__name__)

# Further modes of eight bits and fewer.
_EIGHT_BITS = ("1", "P", "YCbCr", "LAB", "HSV", "CMYK", "RGBX")
# With transparency, which is dropped as in transformers' own `convert_to_rgb`.
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
# Formats whose 32-bit images hold values of 16 bits.
_SIXTEEN_BITS_AS_I = ("PNG", "PPM")


def open_image(encoded: Mapping[str, Any], place: str) -> Image.Image:
    """Opens and decodes what `datasets` keeps of an image, `{"bytes": …, "path": …}`.

    Raises:
        UnreadableImageError: If it is damaged, empty, no image or larger than Pillow reads; the message has the path.
    """
    contents, path = encoded["bytes"], encoded["path"]
    try:
        if contents is not None:
            image = Image.open(io.BytesIO(contents))
        elif Path(path).exists():
            image = Image.open(path)
        else:  # of a stream: an address
            return datasets.Image().decode_example({"bytes": None, "path": path})
        image.load()
    except Exception as error:  # of damaged files Pillow raises nearly every kind
        raise unreadable(place, error) from error
    return image


def unreadable(place: str, error: Exception) -> UnreadableImageError:
    """The error of an image that cannot be read."""
    reason = str(error) or type(error).__name__
    return UnreadableImageError(f"Image {place} cannot be read: {reason}")


class ImageReader:
    """Turns images of all kinds into pixel values for one model.

    Args:
        config (`PretrainedConfig`):
            Of the model: `num_channels`, `image_size`.
        image_processor (`BaseImageProcessor`, *optional*):
            Prepares images; not needed for ready pixel values.
        transform (`Callable`, *optional*):
            From an RGB (or grey) image to pixel values, instead of the image processor.

    Raises:
        ValueError: If the image processor cannot be used.
    """

    input_name = IMAGES

    def __init__(
        self,
        config: Any,
        image_processor: BaseImageProcessor | None = None,
        transform: Callable[[Image.Image], torch.Tensor] | None = None,
    ):
        self.expected_shape = input_shape(config)
        self.image_processor = image_processor
        self.transform = transform
        self.usual_range = None
        self._has_warned: set[str] = set()
        if image_processor is not None:
            check_processor(image_processor, config.num_channels)
            self.usual_range = _range_of(image_processor)

    def read(self, image: Any, place: str, mode: str | None = None) -> torch.Tensor:
        """Pixel values `[C, H, W]`, float32, of a PIL image, an array of bytes, or ready pixel values.

        Args:
            image:
                The image.
            place (`str`):
                Which one it is, for errors, such as `"3 of the dataset"`.
            mode (`str`, *optional*):
                A mode of Pillow that its data set has it in, such as grey ones of photographs.

        Raises:
            ItemError: If it is none of these, or of the wrong shape.
            UnreadableImageError: If it cannot be decoded.
        """
        image = self.decode(image, place)
        ready = isinstance(image, torch.Tensor)
        pixel_values = self._ready(image, place) if ready else self._prepared(image, place, mode)
        if tuple(pixel_values.shape) != self.expected_shape:
            raise ItemError(
                f"Image {place} has pixel values of shape {tuple(pixel_values.shape)}; the model reads "
                f"{self.expected_shape} (channels, height, width). Resize it, or pass images and an image processor."
            )
        if not torch.isfinite(pixel_values).all():
            raise ItemError(f"Image {place} has pixel values that are NaN or infinite.")
        if ready:
            self._check_range(pixel_values, place)
        return pixel_values

    def decode(self, image: Any, place: str) -> Image.Image | torch.Tensor:
        """A decoded image, or pixel values as they are.

        Raises:
            ItemError: If it is neither.
            UnreadableImageError: If it cannot be decoded.
        """
        image = _as_image_or_values(image, place)
        return image if isinstance(image, torch.Tensor) else self._first_frame(image, place)

    def check_images(self) -> None:
        """Tells before any work whether images can be prepared.

        Raises:
            ValueError: If there is nothing to prepare them, or the model does not read RGB or grey.
        """
        if self.image_processor is None and self.transform is None:
            raise ValueError(
                "These images must be prepared for the model, but it came without an image processor. "
                "Pass image_processor= to SNPPruner.from_pretrained, or a dataset of pixel values."
            )
        if self.expected_shape[0] not in (1, 3):
            raise ValueError(
                f"The model reads {self.expected_shape[0]} channels, and images have one (grey) or three (RGB). Pass "
                f"pixel values: float tensors of shape {self.expected_shape}."
            )

    def _prepared(self, image: Image.Image, place: str, mode: str | None) -> torch.Tensor:
        self.check_images()
        image = eight_bits(_upright(image), place, image.format)
        image = eight_bits(image.convert(mode), place) if mode else image
        image = image.convert("L" if self.expected_shape[0] == 1 else "RGB")
        if self.transform is not None:
            return self.transform(image)
        return self.image_processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _first_frame(self, image: Image.Image, place: str) -> Image.Image:
        try:
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a photograph with a preview
                self._warn(
                    "animated", f"Image {place} is animated or has several pages; the first is taken of such images."
                )
                here = image.tell()
                image.seek(0)
                first = image.copy()
                image.seek(here)  # the caller's image stays as it was
                return first
            image.load()  # Pillow decodes a file only now
        except Exception as error:
            raise unreadable(place, error) from error
        return image

    def _ready(self, image: torch.Tensor, place: str) -> torch.Tensor:
        if self.transform is not None:
            raise ItemError(
                f"Item {place} has ready pixel values, but images are to be changed at random in training. Pass a "
                "dataset of images, or a recipe without these changes."
            )
        return image.float()

    def _check_range(self, pixel_values: torch.Tensor, place: str) -> None:
        if self.usual_range is None:
            return
        low, high = self.usual_range
        least, most = pixel_values.min().item(), pixel_values.max().item()
        if least < low - (high - low) or most > high + (high - low):
            self._warn(
                "range",
                f"Item {place} has float values from {least:.3g} to {most:.3g}, which are taken as pixel values, and "
                f"the image processor puts out {low:.3g} to {high:.3g}. Images that are not prepared yet must be "
                "bytes (uint8) or PIL images.",
            )

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._has_warned:
            self._has_warned.add(kind)
            logger.warning(text)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say, where there are any that can be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of damaged data Pillow raises nearly every kind; the image itself is whole
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def eight_bits(image: Image.Image, place: str, file_format: str | None = None) -> Image.Image:
    """The same image as RGB or grey of eight bits: 16 bits are scaled, transparency is dropped.

    Args:
        image (`PIL.Image.Image`):
            Of any mode.
        place (`str`):
            Which one it is, for errors, such as `"3 of the dataset"`.
        file_format (`str`, *optional*):
            The format of its file, as Pillow names it.

    Raises:
        ItemError: If the range of its values is not known, or the mode is not.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")  # undoes what alpha was multiplied into
        return image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode in _EIGHT_BITS:
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in _SIXTEEN_BITS_AS_I):
        return Image.fromarray(_scaled(np.asarray(image)))
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ItemError(
            f"Image {place} holds {kind} (mode {image.mode!r}), whose range is not known. Save it with 8 or 16 bits, "
            "or pass an array of uint8 or uint16, or float tensors of ready pixel values."
        )
    raise ItemError(f"Image {place} is of mode {image.mode!r}, which is not known. Convert it to RGB.")


def _scaled(values: np.ndarray) -> np.ndarray:
    """Values of 16 bits as values of 8."""
    return np.rint(values / 257).astype(np.uint8)


def _as_image_or_values(image: Any, place: str) -> Image.Image | torch.Tensor:
    """A PIL image, or a float tensor of pixel values; arrays and lists of integers are images."""
    if isinstance(image, Mapping) and {"bytes", "path"} <= image.keys():
        return open_image(image, place)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, list):  # what `datasets` makes of arrays
        try:
            image = np.asarray(image)
        except ValueError as error:
            raise ItemError(f"Item {place} is a list of rows of different lengths.") from error
        if image.dtype.kind == "f":
            return torch.from_numpy(image)
    if isinstance(image, torch.Tensor):
        if image.is_floating_point():
            return image
        image = image.cpu().numpy()
    if isinstance(image, np.ndarray):
        return _array_to_image(image, place)
    raise ItemError(
        f"Item {place} is no image but {type(image).__name__}; expected a PIL image, an array of unsigned bytes, or a "
        "float tensor of pixel values."
    )


def _array_to_image(array: np.ndarray, place: str) -> Image.Image:
    channels = [axis for axis in (0, 2) if array.ndim == 3 and array.shape[axis] in (1, 3, 4)]
    if array.dtype.kind not in "biu" or not (array.ndim == 2 or len(channels) == 1) or 0 in array.shape:
        both = ", whose channels cannot be told" if len(channels) == 2 else ""
        raise ItemError(
            f"Item {place} is an array of {array.dtype} with shape {array.shape}{both}; an image is an array of "
            "uint8, [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, and pixel values are a float tensor "
            "[C, H, W]."
        )
    if channels == [0]:
        array = array.transpose(1, 2, 0)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = _scaled(array)
    elif array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise ItemError(
                f"Item {place} is an array of {array.dtype} with values from {array.min()} to {array.max()}; those of "
                "an image go from 0 to 255. Scale them, or pass float tensors of ready pixel values."
            )
        array = array.astype(np.uint8)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    return Image.fromarray(np.ascontiguousarray(array))


def check_processor(image_processor: BaseImageProcessor, num_channels: int) -> None:
    """Tells before any work whether an image processor fits a model.

    Raises:
        ValueError: If it is to normalise and does not know by what, or for another number of channels.
    """
    if not getattr(image_processor, "do_normalize", False):
        return
    for name in ("image_mean", "image_std"):
        values = getattr(image_processor, name, None)
        if values is None:
            raise ValueError(
                f"The image processor is to normalise images (do_normalize) but has no {name}. Set it, or set "
                "do_normalize to False."
            )
        if np.ndim(values) and len(values) not in (1, num_channels):
            raise ValueError(
                f"The image processor has an {name} of {len(values)} values, and the model reads {num_channels} "
                "channels. Set as many."
            )


def _range_of(processor: BaseImageProcessor) -> tuple[float, float]:
    """The least and greatest value that an image processor puts out."""
    most = 255.0 * processor.rescale_factor if getattr(processor, "do_rescale", False) else 255.0
    if not getattr(processor, "do_normalize", False):
        return 0.0, most
    mean, std = np.asarray(processor.image_mean, float), np.asarray(processor.image_std, float)
    return float((-mean / std).min()), float(((most - mean) / std).max())

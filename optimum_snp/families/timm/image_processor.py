"""timm's eval transform as an ordinary image processor of transformers."""

import math
from typing import Any

import transformers
from PIL import Image
from transformers import BaseImageProcessor


_RESAMPLING = {
    name.lower(): getattr(Image.Resampling, name)
    for name in ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
}


def convert_image_processor(image_processor: BaseImageProcessor) -> BaseImageProcessor:
    """What a `TimmWrapperImageProcessor` does to images, as an ordinary image processor; any other as it is.

    Both resize with Pillow, cut out the middle and normalise. Where an odd number of pixels is cut off, timm rounds
    to an even number and transformers down, so that the cut may lie one pixel beside timm's.

    Raises:
        ValueError: If the transform of timm cannot be expressed; the message names the setting.
    """
    if type(image_processor).__name__ != "TimmWrapperImageProcessor":
        return image_processor
    return build_image_processor(image_processor.data_config)


def build_image_processor(settings: dict[str, Any]) -> BaseImageProcessor:
    """The image processor for what `timm.data.resolve_data_config` gives.

    Raises:
        ValueError: As [`convert_image_processor`].
    """
    channels, *crop = settings["input_size"]
    crop_pct, mode = settings["crop_pct"], settings.get("crop_mode") or "center"
    resized = [math.floor(side / crop_pct) for side in crop]
    if settings["interpolation"] not in _RESAMPLING:
        _refuse("interpolation", settings["interpolation"], f"only {', '.join(map(repr, _RESAMPLING))}")
    if crop_pct > 1:
        _refuse("crop_pct", crop_pct, "no cut that is larger than the image")
    if mode == "squash":
        size = {"height": resized[0], "width": resized[1]}
    elif mode != "center":
        _refuse("crop_mode", mode, "only 'center' and 'squash'")
    elif crop[0] != crop[1]:
        _refuse("input_size", settings["input_size"], "only squares with crop_mode 'center'")
    else:
        size = {"shortest_edge": resized[0]}
    return transformers.BitImageProcessorPil(
        size=size,
        resample=int(_RESAMPLING[settings["interpolation"]]),
        crop_size={"height": crop[0], "width": crop[1]},
        image_mean=list(settings["mean"]),
        image_std=list(settings["std"]),
        do_convert_rgb=channels == 3,
    )


def _refuse(name: str, value: Any, known: str) -> None:
    raise ValueError(
        f"{name} of timm's eval transform is {value!r}, but image processors of transformers know {known}. Give an "
        "image_processor that prepares images as you want them."
    )

"""From a sound to the spectrogram that a model reads, by its feature extractor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import SequenceFeatureExtractor

from ..structure import SPECTROGRAMS, input_shape
from .errors import ItemError, UnreadableImageError


class SoundReader:
    """Turns sounds into spectrograms for one model, as [`ImageReader`] does with images.

    Args:
        config (`PretrainedConfig`):
            Of the model: `num_frames`, `num_mel_bins`.
        feature_extractor (`SequenceFeatureExtractor`, *optional*):
            Prepares sounds; not needed for ready spectrograms.

    Raises:
        ValueError: If the feature extractor does not fit the model.
    """

    input_name = SPECTROGRAMS

    def __init__(self, config: Any, feature_extractor: SequenceFeatureExtractor | None = None):
        self.expected_shape = input_shape(config)
        self.feature_extractor = feature_extractor
        if feature_extractor is None:
            return
        for name, expected in zip(("max_length", "num_mel_bins"), self.expected_shape, strict=True):
            found = getattr(feature_extractor, name, None)
            if found != expected:
                raise ValueError(
                    f"{name} of the {type(feature_extractor).__name__} is {found}, of the model {expected}. Pass the "
                    "feature extractor of this model as image_processor."
                )

    def read(self, sound: Any, place: str, mode: str | None = None) -> torch.Tensor:
        """The spectrogram `[num_frames, num_mel_bins]`, float32, of a sound, or a ready one.

        Args:
            sound:
                A dict with `array` (one channel, or several as rows or columns, which are averaged) and
                `sampling_rate`, what `datasets` gives for one of its columns of sounds, or a spectrogram.
            place (`str`):
                Which one it is, for errors, such as `"3 of the dataset"`.
            mode (`str`, *optional*):
                Of images only.

        Raises:
            ItemError: If it is none of these, of another sampling rate or the wrong shape, or has values that are NaN.
        """
        sound = self.decode(sound, place)
        spectrogram = sound.float() if isinstance(sound, torch.Tensor) else self._extracted(*sound, place)
        if tuple(spectrogram.shape) != self.expected_shape:
            raise ItemError(
                f"Sound {place} has a spectrogram of shape {tuple(spectrogram.shape)}; the model reads "
                f"{self.expected_shape} (frames, mel bins). A sound itself is a dict with array and sampling_rate."
            )
        if not torch.isfinite(spectrogram).all():
            raise ItemError(f"Sound {place} has values that are NaN or infinite.")
        return spectrogram

    def decode(self, sound: Any, place: str) -> tuple[np.ndarray, int] | torch.Tensor:
        """Samples `[time]` and sampling rate, or a spectrogram as it is.

        Raises:
            ItemError: If it is neither.
            UnreadableImageError: If it cannot be decoded.
        """
        if hasattr(sound, "get_all_samples"):  # what `datasets` 4 gives
            try:
                samples = sound.get_all_samples()
            except Exception as error:  # of damaged files a decoder raises nearly every kind
                raise UnreadableImageError(f"Sound {place} cannot be read: {error}") from error
            return _one_channel(samples.data.numpy(), place), samples.sample_rate
        if isinstance(sound, Mapping) and {"array", "sampling_rate"} <= sound.keys():
            return _one_channel(np.asarray(sound["array"]), place), sound["sampling_rate"]
        if isinstance(sound, (list, np.ndarray)):
            try:
                sound = torch.as_tensor(np.asarray(sound))
            except (TypeError, ValueError) as error:
                raise ItemError(f"Item {place} is no array of numbers: {error}") from error
        if isinstance(sound, torch.Tensor) and sound.is_floating_point() and sound.dim() == 2:
            return sound
        found = f"of shape {tuple(sound.shape)}" if isinstance(sound, torch.Tensor) else type(sound).__name__
        raise ItemError(
            f"Item {place} is no sound but {found}; expected a dict with array and sampling_rate, or a float "
            f"spectrogram of shape {self.expected_shape} (frames, mel bins)."
        )

    def check_images(self) -> None:
        """Tells before any work that images are no sounds.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "The model reads sounds, and the dataset has a column of images. Name that of sounds with image_column."
        )

    def _extracted(self, samples: np.ndarray, sampling_rate: int, place: str) -> torch.Tensor:
        if self.feature_extractor is None:
            raise ValueError(
                "These sounds must be prepared for the model, but it came without a feature extractor. Pass it as "
                "image_processor= to SNPPruner.from_pretrained, or a dataset of input_values."
            )
        wanted = self.feature_extractor.sampling_rate
        if sampling_rate != wanted:
            raise ItemError(
                f"Sound {place} has a sampling rate of {sampling_rate}; the model reads {wanted}. Resample it, or let "
                f"datasets do so: dataset.cast_column(name, Audio(sampling_rate={wanted}))."
            )
        if samples.dtype.kind != "f":
            raise ItemError(f"Sound {place} has samples of type {samples.dtype}; expected floats from -1 to 1.")
        features = self.feature_extractor(samples, sampling_rate=wanted, return_tensors="pt")
        return features[SPECTROGRAMS][0].float()


def _one_channel(samples: np.ndarray, place: str) -> np.ndarray:
    if samples.ndim == 2:  # a sound has far more samples than channels
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if samples.ndim != 1 or not len(samples):
        raise ItemError(f"Sound {place} has samples of shape {samples.shape}; expected [time] or [channels, time].")
    return samples

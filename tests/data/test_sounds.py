"""Sounds as spectrograms: what is read, by what, and what is refused."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor

from optimum_snp.data import pixel_dataset
from optimum_snp.models import SNPASTConfig


CONFIG = SNPASTConfig(
    hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=[24, 32]
)
RATE = 8000


@pytest.fixture(scope="module")
def extractor():
    return ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=24, max_length=32)


def samples(length=3000):
    return np.random.default_rng(0).normal(size=length).astype(np.float32)


def sound(array, rate=RATE):
    return {"array": array, "sampling_rate": rate}


def read(dataset, extractor=None, **options):
    return pixel_dataset(dataset, CONFIG, extractor, **options)[0]


def test_sounds_become_the_spectrograms_of_the_feature_extractor(extractor):
    expected = extractor(samples(), sampling_rate=RATE, return_tensors="pt")["input_values"][0]
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(samples())[None], sample_rate=RATE)
    )
    stereo = np.stack([samples() - 1, samples() + 1])
    for item in (
        {"audio": sound(samples())},
        {"audio": sound(samples().tolist())},
        {"audio": decoder},
        {"audio": sound(stereo)},
        {"audio": sound(stereo.T)},
        (sound(samples()), 0),
    ):
        spectrogram = read([item], extractor)["input_values"]
        torch.testing.assert_close(spectrogram, expected, atol=1e-3, rtol=1e-4)  # a mean of two rounds


def test_columns_of_sounds_and_of_spectrograms_are_found(extractor):
    column = datasets.Dataset.from_dict({"audio": [sound(samples())], "label": [1]})
    assert read(column, extractor)["input_values"].shape == (32, 24)
    spectrogram = torch.randn(32, 24)
    for dataset in (
        spectrogram[None],
        [{"input_values": spectrogram, "labels": 1}],
        datasets.Dataset.from_dict({"input_values": [spectrogram.tolist()], "label": [1]}),
    ):
        torch.testing.assert_close(read(dataset)["input_values"], spectrogram)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (sound(samples(), 44100), "Sound 0 of the dataset has a sampling rate of 44100; the model reads 8000"),
        (sound(np.zeros((2, 3, 4), np.float32)), r"samples of shape \(2, 3, 4\)"),
        (sound(np.zeros(0, np.float32)), r"samples of shape \(0,\)"),
        (sound(np.zeros(500, np.int16)), "samples of type int16; expected floats"),
        (samples(), r"is no sound but of shape \(3000,\); expected a dict with array and sampling_rate"),
        (torch.zeros(24, 32), r"spectrogram of shape \(24, 32\); the model reads \(32, 24\)"),
        (torch.full((32, 24), torch.nan), "NaN or infinite"),
        ("a.wav", "is no sound but str"),
    ],
)
def test_what_is_no_sound_is_refused(extractor, item, message):
    with pytest.raises(ValueError, match=message):
        read([{"audio": item}], extractor)


def test_sounds_need_the_feature_extractor_of_the_model():
    with pytest.raises(ValueError, match="came without a feature extractor"):
        read([{"audio": sound(samples())}])
    with pytest.raises(ValueError, match="max_length of the ASTFeatureExtractor is 1024, of the model 32"):
        read([{"audio": sound(samples())}], ASTFeatureExtractor(num_mel_bins=24))


def test_images_are_refused(tmp_path):
    images = datasets.Dataset.from_dict(
        {"image": [np.zeros((4, 4, 3), np.uint8)]}, features=datasets.Features({"image": datasets.Image()})
    )
    with pytest.raises(ValueError, match="reads sounds, and the dataset has a column of images"):
        read(images)
    with pytest.raises(ValueError, match="read as a folder of images, and the model reads sounds"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"spectrograms must be \[N, frames, mel bins\]"):
        read(torch.zeros(1, 3, 32, 32))

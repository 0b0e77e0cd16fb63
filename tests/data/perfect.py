"""A model that tells four colours without fault, and images of them."""

import copy
import functools

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "dark red": (90, 10, 10)}
NAMES = list(COLOURS)
SIZE = 16


def image_of(name, seed=0, size=(SIZE, SIZE)):
    """A PIL image of one colour, with a little noise."""
    generator = np.random.default_rng(seed)
    pixels = np.array(COLOURS[name]) + generator.integers(-9, 10, (*size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def processor():
    """Prepares images for the model: values from -1 to 1."""
    return ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_convert_rgb=True)


def model(names=NAMES, order=NAMES, **config):
    """The model with its classes in this order of colours, called by these names; further fields of its config."""
    built = copy.deepcopy(_trained())
    rows = [NAMES.index(colour) for colour in order]
    built.classifier.weight.data = built.classifier.weight.data[rows]
    built.classifier.bias.data = built.classifier.bias.data[rows]
    built.config.id2label = dict(enumerate(names))
    built.config.label2id = {name: number for number, name in enumerate(names)}
    built.config.problem_type = None  # the first loss of a training sets it
    for name, value in config.items():
        setattr(built.config, name, value)
    return built


@functools.cache
def _trained():
    torch.manual_seed(0)
    built = ViTForImageClassification(
        ViTConfig(
            image_size=SIZE,
            patch_size=8,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            num_labels=len(NAMES),
            initializer_range=0.1,
        )
    )
    images = [image_of(name, seed) for seed in range(16) for name in NAMES]
    pixel_values = processor()(images=images, return_tensors="pt")["pixel_values"]
    labels = torch.arange(len(images)) % len(NAMES)
    optimizer = torch.optim.AdamW(built.parameters(), lr=3e-3)
    for _ in range(80):
        built(pixel_values, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (built.eval()(pixel_values).logits.argmax(-1) == labels).all()
    return built

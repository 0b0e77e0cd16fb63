"""Small random models of transformers, by which tests try what a family can do."""

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel


def random_example(class_name: str, config_class: type[PretrainedConfig], **options: Any) -> PreTrainedModel:
    """A model of a class of transformers for images of 32 pixels, with 5 labels, the same at every call.

    Args:
        class_name (`str`):
            The class.
        config_class (`type`):
            That of its config.
        options:
            For the config.
    """
    settings = {
        "image_size": 32,
        "initializer_range": 0.1,
        **({} if "id2label" in options else {"num_labels": 5}),
        **options,
    }
    return random_model(class_name, config_class(**settings))


def random_model(class_name: str, config: PretrainedConfig) -> PreTrainedModel:
    """A model of a class of transformers, the same at every call.

    Args:
        class_name (`str`):
            The class.
        config (`PretrainedConfig`):
            For it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, class_name)(config).eval()
        with torch.no_grad():  # biases, norms and tokens start as zeros and ones; a mix-up must not go unseen
            for parameter in model.parameters():
                if parameter.numel() and (parameter == parameter.flatten()[0]).all():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model

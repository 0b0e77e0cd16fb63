"""Classification without a classifier: an image is of the class whose texts its embedding is nearest to."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils import data as torch_data
from transformers import BaseImageProcessor, EvalPrediction, PretrainedConfig

from ..checks import check_positive_integer
from ..data import choose_num_workers, pixel_dataset, without_unreadable
from ..devices import put_back
from ..models import SNPModel, has_classifier
from ..processes import process_state
from . import topk_accuracy


@torch.inference_mode()
def evaluate_zero_shot(
    model: SNPModel,
    eval_dataset: Any,
    classes: Sequence[str],
    texts: Mapping[str, torch.Tensor] | torch.Tensor,
    *,
    batch_size: int = 32,
    image_processor: BaseImageProcessor | None = None,
    num_workers: int | None = None,
    skip_unreadable: bool = False,
    **data_options: Any,
) -> dict[str, float]:
    """See [`SNPPruner.evaluate_zero_shot`].

    Args:
        model:
            A model of ours that embeds images.
        eval_dataset, classes, texts, batch_size, num_workers, skip_unreadable:
            As there.
        image_processor (`BaseImageProcessor`, *optional*):
            See [`optimum_snp.data.pixel_dataset`].
        data_options:
            `image_column`, `label_column`, `label_map`, as there.

    Returns:
        `dict[str, float]`: `accuracy` and `top5_accuracy`.
    """
    check_positive_integer("batch_size", batch_size)
    if has_classifier(model) or not (hasattr(model, "text_model") or getattr(model.config, "use_pooler", False)):
        raise TypeError(
            f"{type(model).__name__} gives no embeddings that are compared with texts. Start from a model of images "
            "and texts, such as CLIPModel or SiglipModel, or from the vision tower of one."
        )
    config = _with_labels(model.config, classes)
    pixels = pixel_dataset(eval_dataset, config, image_processor, with_labels=True, split=None, **data_options)
    workers = choose_num_workers(num_workers, pixels)
    if skip_unreadable:
        pixels = without_unreadable(pixels, workers)
    with put_back(model):
        model.to(process_state().device).eval()
        of_classes = class_embeddings(model, texts, len(classes))
        found, labels = [], []
        for batch in torch_data.DataLoader(pixels, batch_size=batch_size, num_workers=workers):
            embeddings = F.normalize(embed_images(model, batch["pixel_values"].to(model.device)).float(), dim=-1)
            if embeddings.shape[1] != of_classes.shape[1]:
                raise ValueError(
                    f"texts are embedded in {of_classes.shape[1]} numbers, images in {embeddings.shape[1]}. Take both "
                    "from towers that were trained together."
                )
            similarity = embeddings @ of_classes.T
            found.append(similarity.topk(min(5, len(classes)), dim=-1).indices.cpu())
            labels.append(torch.as_tensor(batch["labels"]))
    return topk_accuracy(EvalPrediction(np.asarray(torch.cat(found)), np.asarray(torch.cat(labels))))


def embed_images(model: SNPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """The embeddings of images, `[images, size]`, of any length: of a projection, or what a pooler gives."""
    outputs = model(pixel_values)
    return outputs.pooler_output if outputs.image_embeds is None else outputs.image_embeds


def class_embeddings(
    model: SNPModel, texts: Mapping[str, torch.Tensor] | torch.Tensor, num_classes: int
) -> torch.Tensor:
    """The embeddings of classes, `[classes, size]`, of length 1: each the mean of those of its texts.

    Raises:
        TypeError: If there are tokens, but the model has no text tower.
        ValueError: If there is not the same number of texts for each class.
    """
    if isinstance(texts, torch.Tensor):
        embeddings = texts.to(model.device)
    elif not hasattr(model, "text_model"):
        raise TypeError(
            f"{type(model).__name__} has no text tower to read tokens with. Pass the embeddings of the texts, "
            "[texts, size], that the source's text tower gives."
        )
    else:
        features = model.get_text_features(**{name: tokens.to(model.device) for name, tokens in texts.items()})
        embeddings = features if isinstance(features, torch.Tensor) else features.pooler_output
    if not num_classes or embeddings.dim() != 2 or not len(embeddings) or len(embeddings) % num_classes:
        raise ValueError(
            f"texts must be as many for each class, those of one class beside each other; there are "
            f"{len(embeddings)} for {num_classes} classes."
        )
    by_class = F.normalize(embeddings.float(), dim=-1).unflatten(0, (num_classes, -1))
    return F.normalize(by_class.mean(dim=1), dim=-1)


def _with_labels(config: PretrainedConfig, classes: Sequence[str]) -> PretrainedConfig:
    """A config that reads images as this one says, with labels of these names."""
    named = copy.deepcopy(getattr(config, "vision_config", config))
    named.id2label = dict(enumerate(classes))
    named.label2id = {name: index for index, name in enumerate(classes)}
    named.problem_type = None
    return named

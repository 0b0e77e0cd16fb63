"""Classification without a classifier: an image is of the class whose texts its embedding is nearest to."""

import copy
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch.utils import data as torch_data
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedTokenizerBase

from ..checks import check_positive_integer
from ..data import PixelStream, choose_num_workers, pixel_dataset, without_unreadable
from ..devices import put_back
from ..models import SNPModel, has_classifier
from ..processes import process_state


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
) -> tuple[dict[str, float], int]:
    """See [`SNPPruner.evaluate_zero_shot`]. The processes of a job share the images.

    Args:
        model:
            A model of ours that embeds images.
        eval_dataset, classes, batch_size, num_workers, skip_unreadable:
            As there.
        texts (`Mapping[str, torch.Tensor]` or `torch.Tensor`):
            Tokens or embeddings, as there.
        image_processor (`BaseImageProcessor`, *optional*):
            See [`optimum_snp.data.pixel_dataset`].
        data_options:
            `image_column`, `label_column`, `label_map`, as there.

    Returns:
        `dict[str, float]`: `accuracy` and `top5_accuracy`; and the number of images.
    """
    check_positive_integer("batch_size", batch_size)
    if has_classifier(model) or not (hasattr(model, "text_model") or getattr(model.config, "use_pooler", False)):
        raise TypeError(
            f"{type(model).__name__} gives no embeddings that are compared with texts. Start from a model of images "
            "and texts, such as CLIPModel or SiglipModel, or from the vision tower of one."
        )
    _check_classes(classes)
    config = _with_labels(model.config, classes)
    pixels = pixel_dataset(eval_dataset, config, image_processor, with_labels=True, split=None, **data_options)
    workers = choose_num_workers(num_workers, pixels)
    if skip_unreadable:
        pixels = without_unreadable(pixels, workers)
    with put_back(model):
        model.to(process_state().device).eval()
        of_classes = class_embeddings(model, texts, len(classes))
        # Images, right ones, right among the first five.
        counts = torch.zeros(3, dtype=torch.long, device=model.device)
        for batch in _batches_of_process(pixels, batch_size, workers):
            embeddings = F.normalize(embed_images(model, batch["pixel_values"].to(model.device)).float(), dim=-1)
            if embeddings.shape[1] != of_classes.shape[1]:
                raise ValueError(
                    f"texts are embedded in {of_classes.shape[1]} numbers, images in {embeddings.shape[1]}. Take both "
                    "from towers that were trained together."
                )
            first = (embeddings @ of_classes.T).topk(min(5, len(classes)), dim=-1).indices
            is_right = first == torch.as_tensor(batch["labels"], device=model.device).unsqueeze(1)
            counts += torch.stack((torch.tensor(len(first)).to(counts), is_right[:, 0].sum(), is_right.sum()))
        if process_state().num_processes > 1:
            counts = reduce(counts, "sum")
    num_images, right, among_five = counts.tolist()
    return {"accuracy": right / num_images, "top5_accuracy": among_five / num_images}, num_images


def _batches_of_process(pixels: torch_data.Dataset, batch_size: int, workers: int) -> Iterable[dict[str, Any]]:
    """Those that this process measures on; of a stream it reads all, since nothing tells how many there are."""
    state = process_state()
    if isinstance(pixels, PixelStream):
        loader = torch_data.DataLoader(pixels, batch_size=batch_size, num_workers=workers)
        return itertools.islice(loader, state.process_index, None, state.num_processes)
    mine = torch_data.Subset(pixels, range(state.process_index, len(pixels), state.num_processes))
    return torch_data.DataLoader(mine, batch_size=batch_size, num_workers=workers)


def tokens_of(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | None, config: PretrainedConfig
) -> dict[str, torch.Tensor]:
    """What a text tower reads of texts, of the length that it was trained with, which SigLIP needs.

    Raises:
        TypeError: If these are no texts, the model has no text tower, or it came without a tokenizer.
    """
    if not _is_list_of_strings(texts):
        raise TypeError(
            f"texts must be a list of texts, what a tokenizer makes of them, or a tensor of embeddings [texts, size], "
            f"got {texts!r:.60}."
        )
    if tokenizer is None or not hasattr(config, "text_config"):
        raise TypeError(
            "There is no tokenizer to read texts with: the model has no text tower, or came without one. Pass what "
            "the source's tokenizer makes of them, or embeddings [texts, size] that its text tower gives."
        )
    length = config.text_config.max_position_embeddings
    return dict(tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"))


def digest_of(classes: Sequence[str], texts: Mapping[str, torch.Tensor] | torch.Tensor) -> str:
    """What tells classes and their texts from others, where accuracies are held against each other."""
    digest = hashlib.blake2b("\n".join(classes).encode(), digest_size=8)
    tensors = [texts] if isinstance(texts, torch.Tensor) else [texts[name] for name in sorted(texts)]
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def embed_images(model: SNPModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """The embeddings of images, `[images, size]`, of any length: of a projection, or what a pooler gives."""
    outputs = model(pixel_values)
    return outputs.pooler_output if outputs.image_embeds is None else outputs.image_embeds


def class_embeddings(
    model: SNPModel, texts: Mapping[str, torch.Tensor] | torch.Tensor, num_classes: int
) -> torch.Tensor:
    """The embeddings of classes, `[classes, size]`, of length 1: each the mean of those of its texts.

    Raises:
        TypeError: If there are tokens, but the model has no text tower, or they are no tensors; if embeddings are
            whole numbers, as tokens are.
        ValueError: If there is not the same number of texts for each class, or embeddings are NaN or infinite.
    """
    if isinstance(texts, torch.Tensor):
        if not texts.is_floating_point():
            raise TypeError(
                f"A tensor of texts holds their embeddings, [texts, size], but this one holds {texts.dtype}. Pass "
                "tokens by name: all that the tokenizer gives, not input_ids alone."
            )
        embeddings = texts.to(model.device)
    elif not hasattr(model, "text_model"):
        raise TypeError(
            f"{type(model).__name__} has no text tower to read tokens with. Pass the embeddings of the texts, "
            "[texts, size], that the source's text tower gives."
        )
    else:
        others = [name for name, tokens in texts.items() if not isinstance(tokens, torch.Tensor)]
        if others:
            raise TypeError(
                f"{', '.join(others)} of texts must be tensors. Call the tokenizer with padding=True and "
                "return_tensors='pt'."
            )
        features = model.get_text_features(**{name: tokens.to(model.device) for name, tokens in texts.items()})
        embeddings = features if isinstance(features, torch.Tensor) else features.pooler_output
    if not num_classes or embeddings.dim() != 2 or not len(embeddings) or len(embeddings) % num_classes:
        raise ValueError(
            f"texts must be as many for each class, those of one class beside each other; there are "
            f"{len(embeddings)} for {num_classes} classes."
        )
    if not torch.isfinite(embeddings).all():
        raise ValueError("The embeddings of texts have values that are NaN or infinite, so that no class is nearest.")
    by_class = F.normalize(embeddings.float(), dim=-1).unflatten(0, (num_classes, -1))
    return F.normalize(by_class.mean(dim=1), dim=-1)


def _is_list_of_strings(values: Any) -> bool:
    """One string is a sequence of its letters, and none."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(value, str) for value in values)
    )


def _check_classes(classes: Sequence[str]) -> None:
    if not _is_list_of_strings(classes):
        raise TypeError(f"classes must be a list of names, got {classes!r}.")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ValueError(
            f"classes names {twice[0]!r} more than once. Several texts of one class stand beside each other in texts."
        )


def _with_labels(config: PretrainedConfig, classes: Sequence[str]) -> PretrainedConfig:
    """A config that reads images as this one says, with labels of these names."""
    named = copy.deepcopy(getattr(config, "vision_config", config))
    named.id2label = dict(enumerate(classes))
    named.label2id = {name: index for index, name in enumerate(classes)}
    named.problem_type = None
    return named

"""What `prepare_real_vit.py` wrote, read again, and how a pruned model is measured on it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel

from optimum_snp.families import convert
from optimum_snp.models import SNPModel

from .pixels import pixel_values


BATCH_SIZE = 32


@dataclass
class Ground:
    """One task: the dense model, images to calibrate on, images to choose by, and the test.

    Attributes:
        source: The dense model as transformers has it.
        dense: The same in our architecture, on the same device.
        calibration, held_out (`torch.Tensor`): Unlabelled, `[N, 3, size, size]` uint8, of different pictures;
            decisions are made on the second, which no method sees.
        test, labels (`torch.Tensor`): To report on.
    """

    name: str
    source: PreTrainedModel
    dense: SNPModel
    calibration: torch.Tensor
    held_out: torch.Tensor
    test: torch.Tensor
    labels: torch.Tensor

    def measured(self, split: str, max_images: int | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The images of `"held-out"` or `"test"`, or a random choice of so many, and the labels of the second."""
        images, labels = (self.held_out, None) if split == "held-out" else (self.test, self.labels)
        if max_images:
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:max_images]
            images, labels = images[chosen], None if labels is None else labels[chosen]
        return images, labels


@dataclass
class Outputs:
    """Of one model: logits `[N, classes]`, and the final features that the classifier reads, `[N, width]`."""

    logits: torch.Tensor
    features: torch.Tensor


def load_ground(folder: Path, name: str, num_held_out: int = 160, device: str = "cpu") -> Ground:
    """Reads one task, its models on a device.

    About `num_held_out` of its unlabelled images are held out, by the pictures that they show.

    Raises:
        FileNotFoundError: If it was not prepared.
    """
    if not (folder / name / "data.pt").is_file():
        raise FileNotFoundError(f"There is no task in {folder / name}. Run scripts/prepare_real_vit.py first.")
    data = torch.load(folder / name / "data.pt", weights_only=True)
    source = AutoModelForImageClassification.from_pretrained(folder / name / "model").eval().to(device)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(data["calibration"]), generator=generator)
    images, pictures = data["calibration"][order], data["pictures"][order]
    all_pictures = pictures.unique()
    chosen = torch.randperm(len(all_pictures), generator=generator)[: len(all_pictures) * num_held_out // len(images)]
    is_held_out = torch.isin(pictures, all_pictures[chosen])
    parts = images[~is_held_out], images[is_held_out], data["x"], data["y"]
    return Ground(name, source, convert(source), *parts)


@contextlib.contextmanager
def classifier_inputs(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """While open, every pass of the model adds what its classifier reads, `[images, width]`, to a list."""
    features: list[torch.Tensor] = []
    handle = model.classifier.register_forward_pre_hook(lambda _module, inputs: features.append(inputs[0]))
    try:
        yield features
    finally:
        handle.remove()


@torch.inference_mode()
def outputs_of(model: nn.Module, images: torch.Tensor) -> Outputs:
    """Logits and features of images given as bytes, on the CPU."""
    with classifier_inputs(model) as features:
        batches = (pixel_values(batch).to(model.device) for batch in images.split(BATCH_SIZE))
        logits = torch.cat([model(batch).logits for batch in batches])
    return Outputs(logits.float().cpu(), torch.cat(features).float().cpu())


def compare(found: Outputs, dense: Outputs, labels: torch.Tensor | None = None) -> dict[str, float | None]:
    """How far a model is from the dense one.

    Returns:
        `dict`: `accuracy` (with labels); `agreement`, the share of images with the same first class; `kl`, the mean KL
        divergence from the dense model's predictions, nats; `feature_error`, the squared error of the final features
        by their variance, `None` where a pruned width gives them another basis.
    """
    dense_log, found_log = dense.logits.log_softmax(-1), found.logits.log_softmax(-1)
    error = None
    if found.features.shape == dense.features.shape:
        spread = (dense.features - dense.features.mean(dim=0)).square().sum()
        error = float((found.features - dense.features).square().sum() / spread)
    result: dict[str, float | None] = {
        "agreement": float((found.logits.argmax(-1) == dense.logits.argmax(-1)).float().mean()),
        "kl": float((dense_log.exp() * (dense_log - found_log)).sum(-1).mean()),
        "feature_error": error,
    }
    if labels is not None:
        result["accuracy"] = float((found.logits.argmax(-1) == labels).float().mean())
    return result

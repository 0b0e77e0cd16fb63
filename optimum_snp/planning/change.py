"""How far the outputs of pruned models are from those of the dense one, to choose among plans by.

Source: our choice; the similarity of features in different bases is CKA (Kornblith et al., arXiv 1905.00414).
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch.nn import functional as F

from ..calibration.sensitivities import counted_outputs
from ..data import predicts_one_class
from ..devices import put_back
from ..models import SNPModel
from ..processes import process_state
from ..structure import describe


# From what the dense model and a pruned one put out for a batch to the change, summed over the images.
Change: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ChangeOfOutputs:
    """The change of the outputs on some images, for any model that was pruned from one.

    It is the KL divergence from the predictions of the dense model, where those are of one class, in nats: of squared
    differences of logits those count that change no prediction, too. Of other logits, image embeddings and raw tokens
    it is the squared difference. Features of a stream that may get narrower are in another basis then, and nothing
    reads them that was refitted. Of them it is what linear CKA lacks of 1, whatever the width, so that plans of
    different widths can be compared.

    Args:
        model:
            The dense model.
        batches (`Sequence[torch.Tensor]`):
            Pixel values of this process, `[images, channels, height, width]` each.
    """

    def __init__(self, model: SNPModel, batches: Sequence[torch.Tensor]):
        self._batches = batches
        self._raw = describe(model).streams[-1].is_output
        self._of_dense = [self._outputs_of(model, batch) for batch in batches]

    def of(self, model: SNPModel) -> float:
        """The sum over the images of this process."""
        change = 0.0
        for batch, (dense, change_of) in zip(self._batches, self._of_dense, strict=True):
            pruned, _ = self._outputs_of(model, batch)
            change += sum(float(change_of(before, after)) for before, after in zip(dense, pruned, strict=True))
        return change

    @torch.inference_mode()
    def _outputs_of(self, model: SNPModel, batch: torch.Tensor) -> tuple[list[torch.Tensor], Change]:
        """What counts of the outputs, float64, and what says how much it changes."""
        with put_back(model):
            model.to(process_state().device).eval()
            output = model(batch)
            counted = [each.cpu().double() for each in counted_outputs(output, model.config)]
        if "logits" in output and predicts_one_class(model.config):
            return counted, _divergence
        # Every pruned model has these in the basis of the dense one.
        if self._raw or "logits" in output or output.get("image_embeds") is not None:
            return counted, _squares
        return counted, _unlikeness


def _divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return F.kl_div(after.log_softmax(dim=-1), before.log_softmax(dim=-1), reduction="sum", log_target=True)


def _squares(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (after - before).square().sum()


def _unlikeness(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Per image 1 - linear CKA of features, `[images, ..., channels]`, or of maps, `[images, channels, *grid]`."""
    rows = [(each.movedim(1, -1) if each.dim() == 4 else each).flatten(0, -2) for each in (before, after)]
    first, second = (each - each.mean(dim=0) for each in rows)
    unlikeness = 1 - (first.T @ second).square().sum() / ((first.T @ first).norm() * (second.T @ second).norm())
    return len(before) * unlikeness

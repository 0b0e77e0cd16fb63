"""How far the outputs of pruned models are from those of the dense one, to choose among plans by.

Source: our choice; the similarity of features in different bases is CKA (Kornblith et al., arXiv 1905.00414).
"""

from collections.abc import Sequence

import torch

from ..calibration.sensitivities import counted_outputs
from ..devices import put_back
from ..models import SNPModel
from ..processes import process_state
from ..structure import describe


class ChangeOfOutputs:
    """The change of the outputs on some images, for any model that was pruned from one.

    It is the squared difference of what counts of the outputs: logits, image embeddings, raw tokens. Features of a
    stream that may get narrower are in another basis then, and nothing reads them that was refitted. Of them it is
    what linear CKA lacks of 1, whatever the width, so that plans of different widths can be compared.

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
        for batch, (dense, in_one_basis) in zip(self._batches, self._of_dense, strict=True):
            pruned, _ = self._outputs_of(model, batch)
            for before, after in zip(dense, pruned, strict=True):
                if in_one_basis:
                    change += float((after - before).square().sum())
                else:
                    change += len(batch) * float(_unlikeness(before, after))
        return change

    @torch.inference_mode()
    def _outputs_of(self, model: SNPModel, batch: torch.Tensor) -> tuple[list[torch.Tensor], bool]:
        """What counts of the outputs, float64, and whether every pruned model has it in the basis of the dense one."""
        with put_back(model):
            model.to(process_state().device).eval()
            output = model(batch)
            counted = [each.double().cpu() for each in counted_outputs(output, model.config)]
        in_one_basis = self._raw or "logits" in output or output.get("image_embeds") is not None
        return counted, in_one_basis


def _unlikeness(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """1 - linear CKA of features, `[images, ..., channels]`; of feature maps, `[images, channels, height, width]`."""
    rows = [(each.movedim(1, -1) if each.dim() == 4 else each).flatten(0, -2) for each in (before, after)]
    first, second = (each - each.mean(dim=0) for each in rows)
    return 1 - (first.T @ second).square().sum() / ((first.T @ first).norm() * (second.T @ second).norm())

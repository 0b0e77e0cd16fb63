"""What a pruned model is to give again: the dense model's logits and final features, image by image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import reduce
from torch.utils import data as torch_data
from transformers.utils import ModelOutput

from ..data import predicts_one_class
from ..devices import put_back
from ..models import SNPModel, has_classifier
from ..processes import process_state
from ..structure import Norm, architecture_of, describe, model_inputs


# Of one class of several, of which probabilities are compared; and of other problems, compared as they are.
LOGITS, NUMBERS = "logits", "numbers"
TARGET = "target_"


class OutputReader:
    """Reads off a model what is compared: logits, and what the heads read.

    A model without heads gives its features.
    """

    def __init__(self, model: SNPModel):
        self.config = model.config
        self.classifies = has_classifier(model)
        self.tells_one_class = self.classifies and predicts_one_class(model.config)
        self.norm: Norm = describe(model).streams[-1].norms[-1]
        # Where tokens were merged the norm has the groups, and the network puts out all tokens.
        self.module = model.base_model if self.norm.pooled is None else model.get_submodule(self.norm.name)

    def read(self, run: Callable[[], ModelOutput]) -> dict[str, torch.Tensor]:
        """From a pass of the model, `run()`, to the tensors that are compared, by their names, images first."""
        if not self.classifies:
            features = architecture_of(self.config).features(run(), self.config)
            return {f"features_{index}": feature.float() for index, feature in enumerate(features)}
        rows: list[Any] = []
        handle = self.module.register_forward_hook(lambda _module, _inputs, output: rows.append(output))
        try:
            output = run()
        finally:
            handle.remove()
        states = rows[-1] if isinstance(rows[-1], torch.Tensor) else rows[-1].last_hidden_state
        features = {"features": self.norm.read(states).float()} if self.norm.readers else {}
        return {LOGITS if self.tells_one_class else NUMBERS: output.logits.float(), **features}


class TaughtImages(torch_data.Dataset):
    """Images with the dense model's outputs beside them, all in main memory.

    Attributes:
        targets (`dict[str, torch.Tensor]`): By their names, images first.
    """

    def __init__(self, images: torch_data.Dataset, targets: dict[str, torch.Tensor]):
        self.images = images
        self.targets = targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        targets = {TARGET + name: tensor[index] for name, tensor in self.targets.items()}
        return {**self.images[index], **targets}

    def spreads(self) -> dict[str, float]:
        """For every kind of features their variance over the images, the measure of their errors."""
        features = {name: tensor for name, tensor in self.targets.items() if name != LOGITS}
        tiny = torch.finfo(torch.float32).tiny
        return {
            name: max(float((tensor - tensor.mean(dim=0)).square().mean()), tiny) for name, tensor in features.items()
        }


@torch.no_grad()
def with_targets(images: torch_data.Dataset, dense: SNPModel, batch_size: int) -> TaughtImages:
    """The images with the outputs of the dense model, by one pass that the processes of a job share."""
    state = process_state()
    reader = OutputReader(dense)
    mine = range(state.process_index, len(images), state.num_processes)
    found: dict[str, list[torch.Tensor]] = {}
    with put_back(dense):
        dense.to(state.device).eval()
        for batch in torch_data.DataLoader(torch_data.Subset(images, mine), batch_size=batch_size):
            inputs = model_inputs(batch).to(state.device)
            for name, tensor in reader.read(partial(dense, inputs)).items():
                found.setdefault(name, []).append(tensor.cpu())
    targets = {}
    for name, parts in found.items():
        own = torch.cat(parts)
        whole = torch.zeros(len(images), *own.shape[1:])
        whole[list(mine)] = own
        targets[name] = reduce(whole.to(state.device), "sum").cpu() if state.num_processes > 1 else whole
    return TaughtImages(images, targets)


@torch.no_grad()
def check_comparable(pruned: SNPModel, dense: SNPModel, images: torch_data.Dataset) -> None:
    """Tells by one image whether there is anything that both models put out.

    Raises:
        ValueError: If there is not.
    """
    inputs = model_inputs(torch_data.default_collate([images[0]]))
    shapes = []
    for model in (pruned, dense):
        with put_back(model):
            model.eval()
            outputs = OutputReader(model).read(partial(model, inputs.to(model.device)))
        shapes.append({(name, tensor.shape) for name, tensor in outputs.items()})
    if shapes[0].isdisjoint(shapes[1]):
        raise ValueError(
            "What the model puts out is narrower than what the dense one does (hidden_sparsity), in a basis of its "
            "own, so there is nothing to learn. Prune it without hidden_sparsity to recover it."
        )


def distance(
    outputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor], spreads: dict[str, float]
) -> torch.Tensor:
    """How far outputs are from their targets, a scalar: the KL divergence of logits plus the errors of features.

    The error of features, and of logits that do not tell one class of several, is the mean square by their variance.
    Features of another width, in a basis of their own, are left out.

    Args:
        outputs, targets (`dict[str, torch.Tensor]`):
            By their names, images first.
        spreads (`dict[str, float]`):
            The variances.
    """
    parts = []
    for name, target in targets.items():
        if name == LOGITS:
            logs = (outputs[name].log_softmax(dim=-1), target.log_softmax(dim=-1))
            parts.append(F.kl_div(*logs, log_target=True, reduction="batchmean"))
        elif outputs[name].shape == target.shape:
            parts.append((outputs[name] - target).square().mean() / spreads[name])
    return sum(parts)

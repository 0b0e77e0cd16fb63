"""What was measured of a model, so that its card states these numbers and no others.

Every number belongs to a stage (the dense model, a pruned one, a fine-tuned one) and to the weights it was measured
on. Weights that have changed since take their numbers with them.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..calibration import CalibrationStatistics
from ..plan.plan import PruningPlan
from ..saved_fields import check_types, read_fields, read_json


DENSE, PRUNED, FINE_TUNED = "dense", "pruned", "fine-tuned"


@dataclass(frozen=True)
class Stage:
    """A point on a model's way.

    Attributes:
        step (`int`): How often it was pruned so far.
        name (`str`): `"dense"`, `"pruned"` or `"fine-tuned"`.
    """

    step: int = 0
    name: str = DENSE


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one model on one data set.

    Attributes:
        stage ([`Stage`]): Of the model.
        weights (`str`): [`~optimum_snp.calibration.model_fingerprint`] of the weights.
        accuracy, top5_accuracy (`float`): Shares in [0, 1].
        num_images (`int`): Images that they were measured on.
        dataset (`str`, *optional*): Name of the data set, where it is known.
        dataset_id (`str`, *optional*): Its id on the Hub, where it comes from there.
        split (`str`, *optional*): Its split, where it is known.
        texts (`str`, *optional*): Of a model that names classes by texts, a digest of both; `None` of a classifier.
    """

    stage: Stage
    weights: str
    accuracy: float
    top5_accuracy: float
    num_images: int
    dataset: str | None = None
    dataset_id: str | None = None
    split: str | None = None
    texts: str | None = None

    @property
    def conditions(self) -> "Accuracy":
        """All but model and result: equal for numbers that may stand in one row."""
        return replace(self, stage=Stage(), weights="", accuracy=0.0, top5_accuracy=0.0)


@dataclass(frozen=True)
class Latency:
    """Median time of one forward pass.

    Attributes:
        stage ([`Stage`]): Of the model.
        weights (`str`): [`~optimum_snp.calibration.model_fingerprint`] of the weights; empty of an original.
        seconds (`float`): For the whole batch.
        batch_size (`int`): Images per pass.
        machine (`str`): Name of the processor.
        threads (`int`, *optional*): Threads of a CPU.
        dtype (`str`): Of the weights.
        torch (`str`): Version of PyTorch.
    """

    stage: Stage
    weights: str
    seconds: float
    batch_size: int
    machine: str
    threads: int | None
    dtype: str
    torch: str

    @property
    def conditions(self) -> "Latency":
        """All but model and result: equal for numbers that may stand in one row."""
        return replace(self, stage=Stage(), weights="", seconds=0.0)


@dataclass
class Measurements:
    """The numbers of a model and of the stages before it.

    Attributes:
        stage ([`Stage`]):
            Where the model stands.
        accuracies (`list[Accuracy]`), latencies (`list[Latency]`):
            What was measured, the older first.
        spectra (`list[list[list[float]]]`, *optional*):
            Per block and head the singular values of the attention scores before the first pruning, falling, the
            greatest being 1.
        calibration_images (`int`, *optional*):
            Images that the last pruning was calibrated on.
        pruned_weights (`str`, *optional*):
            [`~optimum_snp.calibration.model_fingerprint`] of the weights that the last pruning gave: others have been
            trained since, or changed otherwise.
    """

    stage: Stage = field(default_factory=Stage)
    accuracies: list[Accuracy] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    spectra: list[list[list[float]]] | None = None
    calibration_images: int | None = None
    pruned_weights: str | None = None

    def add(self, measured: Accuracy | Latency) -> None:
        """Keeps a number; one of the same stage under the same conditions gives way to it."""
        numbers: list[Any] = self.accuracies if isinstance(measured, Accuracy) else self.latencies  # type: ignore
        numbers[:] = [old for old in numbers if old.stage != measured.stage or old.conditions != measured.conditions]
        numbers.append(measured)

    def of_weights(self, weights: str) -> "Measurements":
        """A copy in which the numbers of the present stage are those of these weights."""

        def valid(numbers: list) -> list:
            return [number for number in numbers if number.stage != self.stage or number.weights == weights]

        return replace(self, accuracies=valid(self.accuracies), latencies=valid(self.latencies))

    def with_fingerprint(self, before: str, now: str) -> "Measurements":
        """A copy in which the weights that had the fingerprint `before` have the fingerprint `now`."""

        def renamed(numbers: list) -> list:
            return [replace(number, weights=now) if number.weights == before else number for number in numbers]

        return replace(
            self,
            accuracies=renamed(self.accuracies),
            latencies=renamed(self.latencies),
            pruned_weights=now if self.pruned_weights == before else self.pruned_weights,
        )

    def after_pruning(
        self, weights: str, pruned_weights: str, statistics: CalibrationStatistics | None
    ) -> "Measurements":
        """Those of the model with `pruned_weights` that comes from pruning the one with `weights`, by `statistics`."""
        is_first = self.stage.step == 0
        return replace(
            self.of_weights(weights),
            stage=Stage(self.stage.step + 1, PRUNED),
            spectra=relative_spectra(statistics) if is_first and statistics else self.spectra,
            calibration_images=statistics.num_images if statistics else None,
            pruned_weights=pruned_weights,
        )

    def after_training(self, weights: str) -> "Measurements":
        """Those of the model that comes from training the one with these weights; a dense one stays dense."""
        name = FINE_TUNED if self.stage.step else DENSE
        return replace(self.of_weights(weights), stage=Stage(self.stage.step, name))

    def save(self, path: str | Path) -> None:
        """Writes them to a JSON file."""
        Path(path).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Measurements":
        """Reads what `save` wrote; fields that this version does not know are left out with a warning.

        Raises:
            ValueError: If the file holds something else.
        """
        try:
            values = read_json(path)
            found = cls(
                stage=read_fields(Stage, values["stage"], f"{path}, stage"),
                accuracies=_read(Accuracy, values["accuracies"], f"{path}, accuracies"),
                latencies=_read(Latency, values["latencies"], f"{path}, latencies"),
                spectra=values["spectra"],
                calibration_images=values["calibration_images"],
                pruned_weights=values.get("pruned_weights"),
            )
            check_types(found, str(path))
            check_types(found.stage, f"{path}, stage")
            _check_spectra(found.spectra)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} holds no measurements that this version can read: {error}") from error
        return found

    @classmethod
    def of_plan(cls, plan: PruningPlan | None) -> "Measurements":
        """None yet, of a model that was loaded with this plan."""
        return cls(Stage(len(plan.steps), PRUNED) if plan else Stage())


def _read(kind: type, numbers: list[dict[str, Any]], where: str) -> list[Any]:
    read: list[Any] = [
        read_fields(kind, {**number, "stage": read_fields(Stage, number["stage"], where)}, where) for number in numbers
    ]
    for number in read:
        check_types(number, where)
        check_types(number.stage, where)
    return read


def _check_spectra(spectra: Any) -> None:
    if spectra is not None and not all(
        isinstance(value, (int, float)) and 0 <= value <= 1 for block in spectra for head in block for value in head
    ):
        raise ValueError("spectra must be shares of the greatest singular value.")


def relative_spectra(statistics: CalibrationStatistics) -> list[list[list[float]]]:
    """Per block and head the singular values of the attention scores, relative to the greatest.

    They are root mean squares over the attention maps of the calibration images. Three digits are plenty for a
    picture.
    """
    spectra = []
    for block in statistics.blocks:
        values = block["energies"].sqrt()
        values = values / values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)
        spectra.append([[float(f"{value:.3g}") for value in head] for head in values.tolist()])
    return spectra

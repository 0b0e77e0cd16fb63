"""The record of a model: what it is, and how it came about."""

from dataclasses import asdict, dataclass
from typing import Any

from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from ..configuration import SNP_LAYOUT
from ..models import SNPModel
from ..plan.plan import PruningPlan
from .measurements import Measurements
from .origin import Origin


@dataclass(frozen=True)
class ModelRecord:
    """All that is published of a model; [`SNPPruner.record`] gives that of the present stage.

    Attributes:
        model:
            The model, in our architecture.
        image_processor (`BaseImageProcessor`, *optional*):
            Prepares images for it.
        plan ([`PruningPlan`], *optional*):
            The plan that it was pruned by, which knows those of the prunings before; `None` of a dense model.
        measurements ([`Measurements`]):
            What was measured of it and of the stages before it. What is measured later can be added.
        origin ([`Origin`]):
            Where it comes from.
        layout (`str`, *optional*, defaults to `"snp"`):
            What it is saved as unless the user says otherwise; see [`SNPConfig`].
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Prepares texts for a model that reads them beside images.
    """

    model: SNPModel
    image_processor: BaseImageProcessor | None
    plan: PruningPlan | None
    measurements: Measurements
    origin: Origin
    layout: str = SNP_LAYOUT
    tokenizer: PreTrainedTokenizerBase | None = None

    def facts(self) -> dict[str, Any]:
        """Plan, budget and measurements as a dict that JSON can hold, for an experiment tracker say."""
        facts: dict[str, Any] = {
            "source": self.origin.name,
            "stage": asdict(self.measurements.stage),
            "accuracies": [asdict(number) for number in self.measurements.accuracies],
            "latencies": [asdict(number) for number in self.measurements.latencies],
        }
        if self.plan is not None:
            first, last = self.plan.steps[0], self.plan
            facts |= {
                "config": last.config.to_dict(),
                "macs_before": first.macs_before,
                "macs_after": last.macs_after,
                "parameters_before": first.parameters_before,
                "parameters_after": last.parameters_after,
                "latency": last.latency,
                "sizes": [block.after for block in last.blocks],
            }
        return facts

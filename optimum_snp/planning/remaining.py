"""What is left of a model once whole heads and blocks are gone, on which all other parts are then chosen."""

from dataclasses import dataclass

from ..calibration import CalibrationStatistics
from ..models import SNPModel
from ..plan.sizes import Part, Sizes, Slot
from ..reshaping.remove import remove


@dataclass(frozen=True)
class RemainingModel:
    """The model without some of its heads and blocks; it counts its blocks anew.

    Attributes:
        dense_model: The model before.
        model: What is left of it; the same object if nothing goes.
        statistics ([`CalibrationStatistics`]): The dense model's statistics of what is left.
        heads (`list[list[int]]`): Per block of the dense model the heads that stay, none of a block that goes.
    """

    dense_model: SNPModel
    model: SNPModel
    statistics: CalibrationStatistics
    heads: list[list[int]]

    @classmethod
    def of(
        cls, model: SNPModel, statistics: CalibrationStatistics, heads: list[list[int]], *, refits: bool
    ) -> "RemainingModel":
        """Removes all other heads; see [`optimum_snp.reshaping.remove.remove`]."""
        return cls(model, *remove(model, heads, statistics, refits=refits), heads)

    @property
    def kept_blocks(self) -> list[int]:
        """For every block that is left its position in the dense model."""
        return [index for index, heads in enumerate(self.heads) if heads]

    def dense_slot(self, slot: Slot) -> Slot:
        """The part of the dense model that a part of the rest is."""
        part, index = slot
        return part, index if part is Part.WIDTH else self.kept_blocks[index]

    def to_dense(self, sizes: Sizes) -> Sizes:
        """Sizes of the parts of the rest, under the positions that they have in the dense model."""
        return {self.dense_slot(slot): size for slot, size in sizes.items()}

    def from_dense(self, sizes: Sizes, slots: Sizes) -> Sizes:
        """Of sizes under positions in the dense model, those of the parts `slots` of the rest."""
        return {slot: sizes[self.dense_slot(slot)] for slot in slots}

"""What calibration keeps of the images: float64 sums per block, small, additive over images and processes."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.utils import reduce
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..folders import atomic_file
from ..processes import process_state


# Counts up when the meaning of the sums changes, so that those of another version are refused.
FORMAT_VERSION = 2


@dataclass
class CalibrationStatistics:
    """Sums over the calibration images, from which scores and closed-form solutions are computed.

    Attributes:
        blocks (`list[dict[str, torch.Tensor]]`):
            One dict of float64 tensors per block; see [`attention_score_statistics`] and
            [`optimum_snp.calibration.moments`] for their meaning. Also, over `stream_num_tokens` tokens,
            `stream_change`, the sum of `|x_out - x_in|^2 / |x_in|^2`, how much the block changes its stream.
        num_images (`int`):
            Images that the sums run over.
        fingerprint (`str`):
            Digest of the model's weights, so that statistics are never used with another model.
        norms (`dict[str, dict[str, torch.Tensor]]`):
            One dict per norm of the network, by its name; empty without second moments. See
            [`optimum_snp.calibration.moments`].
    """

    blocks: list[dict[str, torch.Tensor]]
    num_images: int = 0
    fingerprint: str = field(default="", repr=False)
    norms: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def has_moments(self) -> bool:
        """Whether they hold what `snp-refit` and `projection` need."""
        return bool(self.norms)

    @property
    def has_sensitivities(self) -> bool:
        """Whether they hold what budgets need."""
        return self.has_moments and "sensitivity_images" in self.blocks[0]

    def reduce(self) -> "CalibrationStatistics":
        """The sums over all processes, the same on each of them."""
        state = process_state()
        if state.num_processes == 1:
            return self
        device = state.device
        count = torch.tensor(self.num_images, device=device)

        def reduced(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            # Moved to the device for the reduction and back, since statistics are kept in main memory.
            return {name: reduce(tensor.to(device), reduction="sum").cpu() for name, tensor in sorted(sums.items())}

        return CalibrationStatistics(
            [reduced(block) for block in self.blocks],
            int(reduce(count, reduction="sum")),
            self.fingerprint,
            {name: reduced(sums) for name, sums in self.norms.items()},
        )

    def save(self, path: str | Path) -> None:
        """Writes the statistics to one safetensors file.

        Raises:
            ValueError: If the folder of `path` does not exist, or the file cannot be written.
        """
        tensors = {
            f"blocks.{index}.{name}": tensor
            for index, block in enumerate(self.blocks)
            for name, tensor in block.items()
        }
        tensors |= {f"norms.{name}.{key}": tensor for name, sums in self.norms.items() for key, tensor in sums.items()}
        metadata = {
            "format_version": str(FORMAT_VERSION),
            "num_images": str(self.num_images),
            "fingerprint": self.fingerprint,
            "num_blocks": str(len(self.blocks)),
        }
        with atomic_file(path) as file:
            save_file(tensors, str(file), metadata)

    @classmethod
    def load(cls, path: str | Path) -> "CalibrationStatistics":
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file was not written by `save`, or by that of another version.
        """
        try:
            file = safe_open(str(path), framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} holds no calibration statistics: {error}") from error
        with file:
            metadata = file.metadata() or {}
            if not {"num_images", "fingerprint", "num_blocks"} <= metadata.keys():
                raise ValueError(f"{path} holds no calibration statistics.")
            if metadata.get("format_version") != str(FORMAT_VERSION):
                raise ValueError(
                    f"format_version of the statistics in {path} must be {FORMAT_VERSION}, got "
                    f"{metadata.get('format_version')}. Calibrate again."
                )
            blocks: list[dict[str, torch.Tensor]] = [{} for _ in range(int(metadata["num_blocks"]))]
            norms: dict[str, dict[str, torch.Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 (a safetensors file is no dict)
                kind, _, rest = key.partition(".")
                place, _, name = rest.rpartition(".")
                sums = norms.setdefault(place, {}) if kind == "norms" else blocks[int(place)]
                sums[name] = file.get_tensor(key)
        return cls(blocks, int(metadata["num_images"]), metadata["fingerprint"], norms)


# Sums of a block whose first dimension is that of the heads.
_PER_HEAD = ("cosines", "weighted_cosines", "energies", "query_moment", "key_moment", "query_sensitivity")


def sums_of_heads(sums: dict[str, torch.Tensor], heads: list[int], neurons: list[int]) -> dict[str, torch.Tensor]:
    """The sums of one block as if it had only some of its heads.

    Args:
        sums (`dict[str, torch.Tensor]`):
            Of the block.
        heads (`list[int]`):
            The heads that stay.
        neurons (`list[int]`):
            Their value neurons, counted through all heads.
    """
    rest = {name: tensor[heads] if name in _PER_HEAD else tensor for name, tensor in sums.items()}
    if "context_moment" in rest:
        rest["context_moment"] = rest["context_moment"][neurons][:, neurons]
        rest["context_sum"] = rest["context_sum"][neurons]
    return rest

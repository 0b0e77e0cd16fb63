"""What calibration keeps of the images: float64 sums per block, small, additive over images and processes."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate.utils import reduce
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..folders import atomic_file
from ..processes import process_state
from ..structure import Structure
from .shapes import Shapes, shapes_of_sums


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

    def without(self, part: "CalibrationStatistics") -> "CalibrationStatistics":
        """The sums over the other images than those of `part`; sums that it lacks stay those over all."""

        def rest(sums: dict[str, torch.Tensor], of_part: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: total - of_part[name] if name in of_part else total for name, total in sums.items()}

        return CalibrationStatistics(
            [rest(*pair) for pair in zip(self.blocks, part.blocks, strict=True)],
            self.num_images - part.num_images,
            self.fingerprint,
            {name: rest(sums, part.norms[name]) for name, sums in self.norms.items()},
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
    def load(cls, path: str | Path, structure: Structure | None = None) -> "CalibrationStatistics":
        """Reads what `save` wrote.

        Args:
            path (`str` or `Path`):
                The file.
            structure ([`Structure`], *optional*):
                Of the model that the statistics must be of, so that nothing else is read into memory.

        Raises:
            ValueError: If the file was not written by `save`, or by that of another version, or sums are missing, of
                other shapes than the model's, NaN, infinite or negative where they cannot be. The message names them.
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
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no dict)
            places = {key: _place(key, path) for key in shapes}
            numbers = {place for kind, place, _ in places.values() if kind == "blocks"}
            if not numbers or numbers != {str(number) for number in range(len(numbers))}:
                raise ValueError(f"The statistics in {path} lack blocks.")
            if metadata["num_blocks"] != str(len(numbers)) or not re.fullmatch(
                "[1-9][0-9]{0,17}", metadata["num_images"]
            ):
                raise ValueError(
                    f"The statistics in {path} do not say rightly how many blocks and images they are of."
                )
            if structure is not None:
                _check_shapes(shapes, structure, path)
            blocks: list[dict[str, torch.Tensor]] = [{} for _ in numbers]
            norms: dict[str, dict[str, torch.Tensor]] = {}
            for key, (kind, place, name) in places.items():
                sums = norms.setdefault(place, {}) if kind == "norms" else blocks[int(place)]
                sums[name] = _checked(file.get_tensor(key), key, path)
        return cls(blocks, int(metadata["num_images"]), metadata["fingerprint"], norms)


def _place(key: str, path: str | Path) -> tuple[str, str, str]:
    """Of a tensor of a file: whether it is of a block or a norm, which one, and its name there."""
    kind, _, rest = key.partition(".")
    place, _, name = rest.rpartition(".")
    if kind not in ("blocks", "norms") or not place or not name:
        raise ValueError(f"{path} holds no calibration statistics: {key} is none of theirs.")
    return kind, place, name


def _check_shapes(shapes: Shapes, structure: Structure, path: str | Path) -> None:
    expected = shapes_of_sums(
        structure,
        moments=any(key.startswith("norms.") for key in shapes),
        sensitivities="blocks.0.sensitivity_images" in shapes,
    )
    wrong = sorted(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
    if wrong:
        key = wrong[0]
        found, wanted = (f"has shape {list(s[key])}" if key in s else "is not there" for s in (shapes, expected))
        raise ValueError(
            f"The statistics in {path} are those of another model, or damaged: {key} {found}, of this model it "
            f"{wanted}. Call calibrate with this one."
        )


def _checked(tensor: torch.Tensor, key: str, path: str | Path) -> torch.Tensor:
    """A tensor of a file, if it can be such a sum."""
    name = key.rpartition(".")[2]
    if tensor.dtype != torch.float64:
        fault = f"is {str(tensor.dtype).removeprefix('torch.')}, not float64"
    elif not torch.isfinite(tensor).all():
        fault = "has values that are NaN or infinite"
    elif not name.endswith("sum") and (_squares(tensor, name) < 0).any():
        fault = "has negative values, which it cannot have"
    else:
        return tensor
    raise ValueError(f"{key} of the statistics in {path} {fault}. Calibrate again.")


def _squares(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Of a moment the diagonal, else all of it."""
    return tensor.diagonal(dim1=-2, dim2=-1) if name.endswith("moment") or name == "query_sensitivity" else tensor


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

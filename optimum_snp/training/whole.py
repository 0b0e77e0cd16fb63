"""Whether a checkpoint is whole: all that a training needs to go on as if there had been no break.

A Trainer starts anew, in silence, whatever state it does not find.
"""

import json
import zipfile
import zlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, SCHEDULER_NAME, TRAINER_STATE_NAME


# What holds the weights: a model, its shards, adapters, or the folders that FSDP and DeepSpeed write.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "*_fsdp*",
    "global_step*",
)
_OPTIMIZERS = (OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, "optimizer_*", "global_step*")
_SCHEDULERS = (SCHEDULER_NAME, "global_step*")
RNG_STATES = "rng_state*.pth"


def fault_of_checkpoint(checkpoint: Path) -> str | None:
    """What keeps a training from going on from a checkpoint.

    Returns:
        `str` or `None`: What is missing or damaged, as part of a sentence; `None` of a whole checkpoint.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        if not isinstance(state.get("global_step"), int):
            return f"its {TRAINER_STATE_NAME} does not say how far it came"
    except OSError:
        return f"it has no {TRAINER_STATE_NAME}"
    except (ValueError, AttributeError):
        return f"its {TRAINER_STATE_NAME} cannot be read"
    for what, patterns in (
        ("weights", _WEIGHTS),
        ("state of the optimizer", _OPTIMIZERS),
        ("state of the learning rate", _SCHEDULERS),
        ("state of the random numbers", [RNG_STATES]),
    ):
        if not any(next(checkpoint.glob(pattern), None) for pattern in patterns):
            return f"it has no {what} ({patterns[0]})"
    return next(filter(None, map(_damage_of, sorted(checkpoint.iterdir()))), None)


def _damage_of(file: Path) -> str | None:
    """What is wrong with a file of tensors or, of the index of shards, with what it names."""
    try:
        if file.suffix == ".safetensors":
            safe_open(file, framework="pt")  # compares the size of the file with its header
        elif file.suffix in (".pt", ".pth") or file.name == OPTIMIZER_NAME_BIN:
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    return f"its {file.name} is damaged"
        elif file.name == "model.safetensors.index.json":
            shards = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(shard for shard in shards if not (file.parent / shard).is_file())
            if missing:
                return f"it has no {missing[0]}"
    except (OSError, SafetensorError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, AttributeError, TypeError):
        return f"its {file.name} was not written to the end, or is damaged"
    return None

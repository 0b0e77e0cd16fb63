"""The files of a model that comes from outside, checked before anything is built from them.

What a config says costs memory before a weight is read: a million layers, or a classifier of a billion classes. So its
numbers are held against the headers of the weight files first, which tell sizes without tensors.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.file_download import _CACHED_NO_EXIST
from transformers import PretrainedConfig, PreTrainedModel

from .models import MOST_PER_WEIGHT, SPARE_NUMBERS
from .saved_fields import read_json


WEIGHTS_NAME, INDEX_NAME = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin")
_GIT_LFS = b"version https://git-lfs"
_MOST_HEADER_BYTES = 100_000_000  # the limit of safetensors itself

# No vision model comes near; what is beyond only costs memory.
_MOST_LAYERS, _MOST_LABELS, _LARGEST_SIZE = 1_000, 1_000_000, 100_000_000
# Zero or less of these divides by zero in code that is no Python, which ends the process without a word.
_POSITIVE = {"image_size", "patch_size", "window_size", "num_channels", "embed_dim", "hidden_size"}
_POSITIVE |= {"num_attention_heads", "num_heads", "intermediate_size"}


def saved_file(name: str, file_name: str, **hub_options: Any) -> Path | None:
    """A file of a folder, or of a repository of the Hub, downloaded.

    Args:
        name (`str`):
            The folder or the Hub id.
        file_name (`str`):
            The file.
        hub_options:
            `revision`, `token`, `cache_dir`, `subfolder` and so on.

    Returns:
        `Path` or `None`: Where it lies; `None` only if it is known that there is no such file.

    Raises:
        ConnectionError: If the Hub does not say whether there is.
        OSError: For a repository that is missing or not open to all; from the Hub's client.
    """
    subfolder = hub_options.get("subfolder") or ""
    if Path(name).is_dir():
        path = Path(name, subfolder, file_name)
        return path if path.is_file() else None
    options = {key: value for key, value in hub_options.items() if key != "subfolder"}
    path_in_repo = f"{subfolder}/{file_name}" if subfolder else file_name
    try:
        return Path(hf_hub_download(name, path_in_repo, **options))
    except LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, but only says that nobody answered
        where = {key: options[key] for key in ("revision", "cache_dir") if options.get(key)}
        if try_to_load_from_cache(name, path_in_repo, **where) is _CACHED_NO_EXIST:
            return None
        raise _unknown(name, file_name, error) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HTTPError) as error:
        if getattr(getattr(error, "response", None), "status_code", 500) < 500:
            raise
        raise _unknown(name, file_name, error) from error


def _unknown(name: str, file_name: str, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"The Hub does not say whether {name} has a {file_name}, and without it the model would be taken for another. "
        f"Try again when it answers. ({type(error).__name__}: {error})"
    )


def read_config(path: Path) -> dict[str, Any]:
    """A config.json whose numbers are such that a config can be made of it.

    Raises:
        ValueError: If the file holds no object, or a number in it is beyond all models.
    """
    values = read_json(path)
    depths = values.get("depths")
    layers = sum(number for _, number in _numbers(depths)) if isinstance(depths, list) else 0
    for name, value in [*_numbers(values), ("the sum of depths", layers)]:
        if "layers" in name or "depth" in name:
            limit = _MOST_LAYERS
        elif name == "num_labels":
            limit = _MOST_LABELS
        else:
            limit = _LARGEST_SIZE
        if name in _POSITIVE and value <= 0:
            raise ValueError(f"{path}: {name} is {value!r}, and must be positive.")
        if abs(value) > limit:
            raise ValueError(f"{path}: {name} is {value!r}, which no model has; at most {limit} can be.")
    return values


def check_weights(name: str, **options: Any) -> int:
    """Reads the headers of the weights of a model.

    Args:
        name (`str`):
            A folder or a Hub id.
        options:
            Of `from_pretrained`; `variant` is minded.

    Returns:
        `int`: How many weights they hold.

    Raises:
        ValueError: If there are none in safetensors, a shard is missing, or a file is not whole.
        ConnectionError: As [`saved_file`].
    """
    variant = options.pop("variant", None)
    weights_name, index_name = WEIGHTS_NAME, INDEX_NAME
    if variant:
        weights_name, index_name = f"model.{variant}.safetensors", f"model.safetensors.index.{variant}.json"
    path = saved_file(name, weights_name, **options)
    if path is not None:
        return _stored_weights(path)
    index = saved_file(name, index_name, **options)
    if index is None:
        raise ValueError(_without_weights(name, weights_name, options.get("subfolder")))
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(f"{index} does not say which shard holds which weight.")
    count = 0
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{index} names {shard!r}, which is no file beside it.")
        path = saved_file(name, shard, **options)
        if path is None:
            raise ValueError(f"{name} has no {shard}, which {index.name} names. Get the whole checkpoint.")
        count += _stored_weights(path)
    return count


def check_built(config: PretrainedConfig, model_class: type[PreTrainedModel], num_weights: int, where: str) -> None:
    """Tells whether a model of a config can be built, and is about as large as the weights that are stored for it.

    Raises:
        ValueError: If not; the message says what is wrong with the config.
    """
    try:
        with torch.device("meta"):
            model = model_class(config)
    except Exception as error:  # whatever a model makes of numbers and names that nobody checked
        raise ValueError(f"{where} describes no {model_class.__name__} that can be built: {_told(error)}") from error
    # It may name heads that are missing in the file, which is told later, and what is computed rather than stored.
    expected = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if expected > MOST_PER_WEIGHT * num_weights + SPARE_NUMBERS:
        raise ValueError(
            f"{where} describes a model of {expected:,} numbers, but {num_weights:,} are stored beside it. One of the "
            "two is of another model."
        )


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _stored_weights(path: Path) -> int:
    """How many numbers a file of safetensors holds, by its header.

    Raises:
        ValueError: If it is something else, or not whole.
    """
    with path.open("rb") as file:
        start = file.read(len(_GIT_LFS))
        if start == _GIT_LFS:
            raise ValueError(
                f"{path} is a pointer of Git LFS, not the file that it stands for. Get that with `git lfs pull`."
            )
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else size
        if length > min(size - 8, _MOST_HEADER_BYTES):
            raise ValueError(f"{path} is not whole, or no file of safetensors. Get it again.")
        try:
            header = json.loads(file.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in tensors), default=0)
            shapes = [torch.Size(entry["shape"]) for entry in tensors]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, RuntimeError) as error:
            raise ValueError(f"{path} is no file of safetensors: its header cannot be read ({error}).") from error
    if end != size - 8 - length:
        raise ValueError(
            f"{path} is not whole: {size - 8 - length} of {end} bytes of weights are there. Get it again."
        )
    return sum(shape.numel() for shape in shapes)


def _without_weights(name: str, weights_name: str, subfolder: str | None) -> str:
    folder = Path(name, subfolder or "")
    if any(next(folder.glob(pattern), None) for pattern in _PICKLED):
        return (
            f"{name} holds pickled weights only, which can run any code when they are read, and are not read here. "
            "Ask whoever made them for safetensors, or save them as such where you trust them."
        )
    return f"{name} has no {weights_name}. Name a checkpoint that was saved in safetensors."


def _numbers(values: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """All numbers of a JSON file, with the names of the fields that they are in."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers(value, key)
    elif isinstance(values, list):
        for value in values:
            yield from _numbers(value, name)
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield name, values

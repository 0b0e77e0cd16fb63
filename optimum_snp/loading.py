"""From a name to a model: short names, folders and the Hub."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import HTTPError
from torch import nn
from transformers import (
    AutoTokenizer,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .families import (
    Family,
    check_supported,
    class_name_of,
    family_of_config,
    family_of_source,
    our_classes,
    short_names,
)
from .file_names import EXPORT_NAME
from .folders import recover_folder
from .saved_fields import read_json
from .source_files import check_built, check_weights, read_config, saved_file
from .torchvision import quiet_about_pillow


logger = logging.getLogger(__name__)

Saved = TypeVar("Saved")


def resolve_name(name_or_path: str | Path) -> str:
    """The full Hub id of a short name such as `deit-small` or `facebook/deit-small`; any other name as it is.

    A local folder of that name comes first.
    """
    name = str(name_or_path)
    if Path(name).expanduser().exists():
        return str(Path(name).expanduser())
    for short_name, full_name in short_names().items():
        namespace = full_name.split("/")[0]
        if name in (short_name, f"{namespace}/{short_name}"):
            return full_name
    return name


def check_path(name_or_path: str | Path) -> None:
    """Raises a `ValueError` for what can only be a path, such as `./small`, where nothing is, and for no name."""
    if not str(name_or_path):
        raise ValueError("The name of the model is empty. Name a folder or a Hub id.")
    if str(name_or_path).startswith((".", "~", "/")) and not Path(name_or_path).expanduser().exists():
        raise ValueError(f"There is no folder {name_or_path}.")


def load_source(name_or_path: str | Path, **options: Any) -> PreTrainedModel:
    """Loads a model that can be pruned, from a folder or the Hub, with the class that its config names.

    Args:
        name_or_path (`str` or `Path`):
            A folder, a Hub id or a short name.
        options:
            For `from_pretrained` of the model: `revision`, `token`, `cache_dir`, `dtype` and so on.

    Raises:
        ValueError: As [`source_class`]; nothing is downloaded then but the config. Also if the checkpoint lacks
            weights (they would be random), or if they are not whole, or not those of the config.
        ConnectionError, OSError: If the Hub cannot be reached or breaks off.
    """
    model_class = source_class(name_or_path, **options)
    name = resolve_name(name_or_path)
    where = f"The config.json of {name_or_path}"
    stored = check_weights(name, **hub_options(options, "variant"))
    config = _config(model_class, name, **hub_options(options))
    if "config" not in options:
        check_built(config, model_class, stored, where)
    try:
        source, report = model_class.from_pretrained(name, output_loading_info=True, use_safetensors=True, **options)
    except OSError:
        raise
    except Exception as error:  # sizes that differ, tensors that are none, and values that nobody checked
        raise ValueError(f"{where} does not fit its weights: {error}") from error
    _check_unexpected(source, report["unexpected_keys"], name_or_path)
    missing = sorted(report["missing_keys"])
    family = family_of_source(model_class.__name__)
    for name in family.optional_modules if family else ():
        without = [
            key for key in missing if not key.removeprefix(f"{source.base_model_prefix}.").startswith(f"{name}.")
        ]
        if without != missing:
            logger.warning(
                f"{name_or_path} has no weights for the {name} of a {model_class.__name__}; it goes without."
            )
            setattr(source.base_model, name, None)
            missing = without
    if missing:
        raise ValueError(
            f"{name_or_path} has no weights for {', '.join(missing[:5])}{' and others' * (len(missing) > 5)}, which a "
            f"{model_class.__name__} needs; they would be random. Name a checkpoint that was saved whole."
        )
    return source


def source_class(name_or_path: str | Path, **options: Any) -> type[PreTrainedModel]:
    """The class of a model that can be pruned, by its config alone; takes what [`load_source`] does.

    Raises:
        ValueError: If a folder is missing, has no config.json or holds an export, or the architecture is not
            supported.
        ImportError: If a package is missing that it needs.
        OSError: If there is no such model on the Hub; from transformers.
    """
    check_path(name_or_path)
    name = resolve_name(name_or_path)
    recover_folder(name)
    folder = Path(name) / options.get("subfolder", "")
    if Path(name).exists() and not (folder / "config.json").is_file():
        raise ValueError(f"{name_or_path} has no config.json; name the folder of a saved model, or a Hub id.")
    if (folder / EXPORT_NAME).is_file() and not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name_or_path} holds an exported model, which PyTorch cannot load. Name the "
            "model that it was exported from."
        )
    try:
        path = saved_file(name, "config.json", **hub_options(options))
    except (OSError, HTTPError) as error:
        if Path(name).exists():
            raise
        raise OSError(f"There is no folder {name_or_path}, and the Hub gives no such model: {error}") from error
    if path is None:
        raise ValueError(f"{name_or_path} has no config.json; name the folder of a saved model, or a Hub id.")
    config = read_config(path)
    architectures = config.get("architectures")
    if architectures and not (isinstance(architectures, list) and isinstance(architectures[0], str)):
        raise ValueError(f"{path}: architectures must be a list of names, got {architectures!r}.")
    architecture = class_name_of(config)
    check_supported(architecture)
    family = family_of_source(architecture)
    if family is not None:
        family.check_config(config, architecture)
    # No model that this package can prune needs code from its repository.
    return family.source_class(architecture) if family else our_classes()[architecture]


def _config(model_class: type[PreTrainedModel], name: str, **options: Any) -> PretrainedConfig:
    try:
        config = model_class.config_class.from_pretrained(name, **options)
        if not all(isinstance(label, str) for label in config.id2label.values()):
            raise ValueError("the names in id2label must be texts")
        config.to_json_string()  # what cannot be saved again is told now
        return config
    except OSError:
        raise
    except Exception as error:  # whatever transformers makes of values that nobody checked
        raise ValueError(f"The config.json of {name} cannot be read: {error}") from error


def _check_unexpected(source: PreTrainedModel, names: Iterable[str], where: str | Path) -> None:
    """Refuses weights that the config leaves no place for in layers, or lists of layers, that it has.

    A head or a pooler that the class does not have may be left out; a bias or a block may not.
    """
    layers = dict(source.named_modules())
    for name in sorted(names):
        parent, _, weight = name.rpartition(".")
        layer = layers.get(parent, nn.Identity())
        is_of_layer = weight in ("weight", "bias") and not list(layer.children()) and bool(list(layer.parameters()))
        parts = name.split(".")
        is_of_list = any(
            part.isdigit() and isinstance(layers.get(".".join(parts[:index])), nn.ModuleList)
            for index, part in enumerate(parts)
        )
        if is_of_layer or is_of_list:
            raise ValueError(
                f"The config.json of {where} does not fit its weights: it has no place for {name}, which would be "
                "left out. Mend the config, or name a checkpoint that is whole."
            )


def load_image_processor(name_or_path: str | Path, **options: Any) -> BaseImageProcessor | None:
    """The image processor saved with a model, or `None` with a warning when there is none.

    Raises:
        ValueError: If there is one, but it cannot be read.
        ConnectionError: If the Hub does not say whether there is one.
    """
    name, options = resolve_name(name_or_path), hub_options(options)
    family = _family_of(name, **options)
    files = [saved_file(name, file, **options) for file in family.image_processor_files]
    if not any(files):
        logger.warning(f"{name_or_path} has no image processor that can be read; only pixel values work.")
        return None
    for file in filter(None, files):
        read_json(file)
    try:
        with quiet_about_pillow():
            return family.image_processor_class.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # whatever transformers makes of values that nobody checked
        raise ValueError(
            f"The preprocessor_config.json of {name_or_path} describes no image processor: {error}. Mend or remove "
            "it, or pass image_processor=."
        ) from error


def load_tokenizer(name_or_path: str | Path, **options: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer saved with a model of images and texts, or `None` with a warning when none can be read."""
    name, options = resolve_name(name_or_path), hub_options(options)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # whatever transformers makes of files that nobody checked
        logger.warning(
            f"{name_or_path} has no tokenizer that can be read, so that none is saved with the model: {error}"
        )
        return None


def _family_of(name: str, **options: Any) -> Family | type[Family]:
    """The family of a saved model, which knows what prepares its images; what is usual where there is none."""
    path = saved_file(name, "config.json", **options)
    return (family_of_config(read_config(path)) if path else None) or Family


def load_saved(kind: type[Saved], file_name: str, name_or_path: str | Path, **options: Any) -> Saved | None:
    """What was saved with a pruned model as `file_name` and `kind.load` reads, or `None` when there is none.

    Raises:
        ValueError: If the file cannot be read.
        ConnectionError: If the Hub does not say whether there is one.
    """
    path = saved_file(resolve_name(name_or_path), file_name, **hub_options(options))
    return kind.load(path) if path else None


def hub_options(options: dict[str, Any], *further: str) -> dict[str, Any]:
    """Those of the options of `from_pretrained` that say where a file comes from, and further ones."""
    names = (*further, "revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
    return {name: options[name] for name in names if name in options}

"""From a name to a model: short names, folders and the Hub."""

import logging
from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from . import models
from .families import check_supported, class_name_of, family_of_source, short_names
from .file_names import EXPORT_NAME


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
    """Raises a `ValueError` for what can only be a path, such as `./small`, where there is nothing."""
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
            weights: they would be random.
    """
    model_class = source_class(name_or_path, **options)
    source, report = model_class.from_pretrained(resolve_name(name_or_path), output_loading_info=True, **options)
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
    folder = Path(name) / options.get("subfolder", "")
    if Path(name).exists() and not (folder / "config.json").is_file():
        raise ValueError(f"{name_or_path} has no config.json; name the folder of a saved model, or a Hub id.")
    if (folder / EXPORT_NAME).is_file() and not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{name_or_path} holds an exported model, which PyTorch cannot load. Name the "
            "model that it was exported from."
        )
    # No model that this package can prune needs code from its repository.
    config, _ = PretrainedConfig.get_config_dict(name, **hub_options(options))
    architecture = class_name_of(config)
    check_supported(architecture)
    family = family_of_source(architecture)
    if family is not None:
        family.check_config(config, architecture)
    return getattr(models, architecture, None) or getattr(transformers, architecture)


def load_image_processor(name_or_path: str | Path, **options: Any) -> BaseImageProcessor | None:
    """The image processor saved with a model, or `None` with a warning when there is none."""
    try:
        return AutoImageProcessor.from_pretrained(
            resolve_name(name_or_path), trust_remote_code=False, **hub_options(options)
        )
    except (OSError, ValueError) as error:
        logger.warning(f"{name_or_path} has no image processor that can be read; only pixel values work. ({error})")
        return None


def load_saved(kind: type[Saved], file_name: str, name_or_path: str | Path, **options: Any) -> Saved | None:
    """What was saved with a pruned model as `file_name` and `kind.load` reads, or `None` when there is none."""
    path = cached_file(
        resolve_name(name_or_path),
        file_name,
        _raise_exceptions_for_missing_entries=False,
        **hub_options(options),
    )
    return kind.load(path) if path else None


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options of `from_pretrained` that say where a file comes from."""
    names = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
    return {name: options[name] for name in names if name in options}

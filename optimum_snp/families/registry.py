"""The families that are known, in the order in which they were registered."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

from .family import Family


_FAMILIES: list[Family] = []


def register_family(family: Family) -> None:
    """Makes a family known: its models can then be loaded, converted and pruned, by name too.

    Raises:
        TypeError: If it is no [`Family`].
        ValueError: If one of its classes, model types or short names is taken.
    """
    if not isinstance(family, Family):
        raise TypeError(f"register_family takes a Family, got {type(family).__name__}.")
    for other in _FAMILIES:
        for kind in ("source_classes", "model_types", "short_names"):
            taken = [name for name in getattr(family, kind) if name in getattr(other, kind)]
            if taken:
                raise ValueError(f"{kind} of {family.title}: {', '.join(taken)} belong to {other.title} already.")
    _FAMILIES.append(family)


def families() -> Iterator[Family]:
    """All families."""
    yield from _FAMILIES


def family_of_source(architecture: str | None) -> Family | None:
    """The family that a class of transformers belongs to, by its name; `None` for one that cannot be pruned."""
    return next((family for family in _FAMILIES if architecture in family.source_classes), None)


def class_name_of(config: Mapping[str, Any]) -> str | None:
    """The class of transformers that a saved config is for; `None` if it does not tell."""
    named = (family.class_name_of(config) for family in _FAMILIES)
    return (config.get("architectures") or [None])[0] or next((name for name in named if name), None)


def family_of_config(config: Mapping[str, Any]) -> Family | None:
    """The family of what a saved config is for: a model of transformers, or one of ours that was one before."""
    family = family_of_source(class_name_of(config))
    kind = config.get("source_model_type") or config.get("model_type")
    return family or next((family for family in _FAMILIES if kind in family.model_types), None)


def convert_image_processor(
    image_processor: BaseImageProcessor | None, architecture: str
) -> BaseImageProcessor | None:
    """What is saved with a model of the class `architecture` that came with this image processor.

    Raises:
        ValueError: If it prepares images in a way that cannot be saved.
    """
    family = family_of_source(architecture)
    if image_processor is None or family is None:
        return image_processor
    return family.convert_image_processor(image_processor)


def family_of_model(config: PretrainedConfig) -> Family:
    """The family that a model of ours was converted from, by its config.

    Models saved before configs told it are those of the first family with their architecture.
    """
    source_type = getattr(config, "source_model_type", None)
    by_type = [family for family in _FAMILIES if source_type in family.model_types]
    by_architecture = [
        family
        for family in _FAMILIES
        if any(ours.config_class.model_type == config.model_type for ours in family.source_classes.values())
    ]
    return (by_type or by_architecture)[0]


def source_classes() -> dict[str, type[PreTrainedModel]]:
    """Names of all classes of transformers that can be pruned, with the class of ours for each."""
    return {name: ours for family in _FAMILIES for name, ours in family.source_classes.items()}


def our_classes() -> dict[str, type[PreTrainedModel]]:
    """Our own classes by name: a model may come from code that its checkpoint carries, in classes of these names."""
    return {ours.__name__: ours for ours in source_classes().values()}


def short_names() -> dict[str, str]:
    """Short names of well-known checkpoints of all families, with their ids on the Hub."""
    return {short: full for family in _FAMILIES for short, full in family.short_names.items()}

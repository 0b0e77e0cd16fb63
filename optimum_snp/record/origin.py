"""Where a model comes from: what the card of its source says."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HTTPError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers.utils import cached_file

from ..file_names import CARD_NAME
from ..loading import hub_options, resolve_name
from ..source_files import saved_file


logger = logging.getLogger(__name__)

LICENSE_FIELDS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Origin:
    """What a pruned model inherits.

    Attributes:
        name (`str`, *optional*):
            Hub id of the source; `None` for a folder.
        base_model (`str` or `list[str]`, *optional*):
            What the card of the source names as its own base.
        license (`dict[str, str]`):
            The fields of its card about the license; empty where it has none.
    """

    name: str | None = None
    base_model: str | list[str] | None = None
    license: dict[str, str] = field(default_factory=dict)

    def base_of(self, repo_id: str | None) -> str | list[str] | None:
        """The base of a model that is pushed to `repo_id`: the nearest that is on the Hub, and not that one itself."""
        return self.name if self.name and self.name != repo_id else self.base_model


def read_origin(name_or_path: str | Path, **options: Any) -> Origin:
    """Reads the card of a model that was loaded by this name; one that is missing or broken says nothing.

    Args:
        name_or_path (`str` or `Path`):
            As the model was loaded: a folder, a Hub id or a short name.
        options:
            As the model was loaded with: `revision`, `token`, `cache_dir`, `local_files_only` and so on.
    """
    if not str(name_or_path):  # of a model that was never loaded
        return Origin()
    name = resolve_name(name_or_path)
    options = hub_options(options)
    card: dict[str, Any] = {}
    try:
        path = saved_file(name, CARD_NAME, **options)
        if path:
            card, _ = split_card(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, HTTPError) as error:  # no model fails to load over its card
        log = logger.debug if options.get("local_files_only") else logger.warning
        log(f"The card of {name} cannot be read, so that what it says of license and base model is not known: {error}")
    return Origin(
        name=name if _came_from_hub(name, options) else None,
        base_model=card.get("base_model"),
        license={key: card[key] for key in LICENSE_FIELDS if key in card},
    )


def split_card(content: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card.

    Raises:
        ValueError: If the metadata cannot be read.
    """
    if not REGEX_YAML_BLOCK.search(content):
        return {}, content
    try:
        card = ModelCard(content, ignore_metadata_errors=True)
        return card.data.to_dict(), card.text
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata of the card cannot be read: {error}") from error


def _came_from_hub(name: str, options: dict[str, Any]) -> bool:
    """Whether a model of this name was downloaded; a model in memory may bear the name of a folder that is gone."""
    if Path(name).exists():
        return False
    try:
        return cached_file(name, "config.json", **{**options, "local_files_only": True}) is not None
    except (OSError, ValueError):
        return False

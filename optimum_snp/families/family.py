"""What has to be known of a family of models of transformers; one object each, in a folder of its own."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from transformers import PretrainedConfig, PreTrainedModel


Weights = dict[str, torch.Tensor]

# What a source config says of itself rather than of the network.
_IDENTITY_FIELDS = ("model_type", "architectures", "transformers_version", "auto_map", "encoder_stride")


class Family(ABC):
    """A family of models that can be pruned, and how they become models of one of our architectures.

    All that is known of a family stands in its subclass of this; `register_family` makes it known.

    Attributes:
        title (`str`): What people call it.
        source_classes (`dict[str, type]`): Names of the classes of transformers, with the class of ours for each.
        model_types (`tuple[str, ...]`): The `model_type` of their configs.
        short_names (`dict[str, str]`): Short names of well-known checkpoints, with their ids on the Hub.
        optional_modules (`tuple[str, ...]`): Modules of the base model that are left out (`None`) where a checkpoint
            has no weights for them.
        refused (`dict[str, str]`): Beginnings of names of classes that look as if they belonged here and cannot be
            pruned, with the reason.
    """

    title: ClassVar[str]
    source_classes: ClassVar[dict[str, type[PreTrainedModel]]]
    model_types: ClassVar[tuple[str, ...]]
    short_names: ClassVar[dict[str, str]] = {}
    optional_modules: ClassVar[tuple[str, ...]] = ()
    refused: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def convert_config(self, source: PreTrainedModel) -> PretrainedConfig:
        """The config of our dense model that is the same function as `source`.

        Raises:
            ValueError: If an option of `source` cannot be expressed; the message names it.
        """

    @abstractmethod
    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """The weights of a source, by their names in transformers, under the names of our architecture.

        Args:
            weights (`dict[str, torch.Tensor]`):
                All weights of the source. They are not changed; what is given back may share memory with them.
            model_class (`type`):
                The class of ours that they are for.
            config:
                Of the source.
        """

    @abstractmethod
    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """A small random model of transformers for images of 32 pixels, for tests and trials.

        Args:
            class_name (`str`):
                One of `source_classes`.
            options:
                For its config.
        """

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """Options of [`Family.example`] that give a model other parts than it has by default, by a name for each.

        Tests try them all beside the default.

        Args:
            class_name (`str`):
                One of `source_classes`.
        """
        return {}

    def title_of(self, config: PretrainedConfig, name: str) -> str:
        """What a card calls a model of the family.

        Args:
            config:
                Of our model.
            name (`str`):
                All names that its source goes by.
        """
        return self.title


def config_fields(source: PreTrainedModel) -> dict[str, Any]:
    """Everything that the config of `source` says of the network and its labels, and which kind of config it was."""
    fields = {name: value for name, value in source.config.to_dict().items() if name not in _IDENTITY_FIELDS}
    return {**fields, "source_model_type": source.config.model_type}

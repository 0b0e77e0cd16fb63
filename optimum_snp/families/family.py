"""What has to be known of a family of models of transformers; one object each, in a folder of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers
from transformers import AutoImageProcessor, BaseImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


Weights = dict[str, torch.Tensor]

# What a source config says of itself rather than of the network.
_IDENTITY_FIELDS = ("model_type", "architectures", "transformers_version", "auto_map", "encoder_stride", "head_dim")

# The parts of a network that can be pruned.
PARTS = ("queries and keys", "values", "MLP", "heads", "blocks", "width")


@dataclass(frozen=True)
class NativeSizes:
    """The sizes that all blocks of a plain checkpoint share."""

    num_attention_heads: int
    head_dim: int
    intermediate_size: int


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
        image_processor_files (`tuple[str, ...]`): Files of a checkpoint that may say how images are prepared.
        image_processor_class (`type`): The class of transformers that loads what prepares images, or sounds.
        parts (`tuple[str, ...]`): What can be pruned in its models, of `PARTS`.
        limits (`str`): What in them is never pruned, or only on conditions.
        refused (`dict[str, str]`): Beginnings of names of classes that look as if they belonged here and cannot be
            pruned, with the reason.
        native_version (`str`, *optional*): The first version of transformers whose classes of this family read the
            size of a head from the config, so that pruned models can be saved as theirs; `None` if they are not.
        not_native (`str`): Why they are not, of a family without a `native_version`.
    """

    title: ClassVar[str]
    source_classes: ClassVar[dict[str, type[PreTrainedModel]]]
    model_types: ClassVar[tuple[str, ...]]
    short_names: ClassVar[dict[str, str]] = {}
    optional_modules: ClassVar[tuple[str, ...]] = ()
    image_processor_files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json", "processor_config.json")
    image_processor_class: ClassVar[type] = AutoImageProcessor
    parts: ClassVar[tuple[str, ...]] = PARTS
    limits: ClassVar[str] = ""
    refused: ClassVar[dict[str, str]] = {}
    native_version: ClassVar[str | None] = None
    not_native: ClassVar[str] = (
        "its classes in transformers derive the size of a head from the width, and checkpoints with smaller MLPs "
        "alone are not written"
    )

    def check_installed(self) -> None:
        """Tells before any work whether the packages that its models need are there.

        Raises:
            ImportError: If not; the message says how to get them.
        """
        return None

    def class_name_of(self, config: Mapping[str, Any]) -> str | None:
        """The class of transformers that a saved config without `architectures` is for; `None` if it is no one's.

        Args:
            config (`Mapping[str, Any]`):
                What its config.json holds.
        """
        return None

    def check_config(self, config: Mapping[str, Any], class_name: str) -> None:
        """Tells by a saved config alone, before weights are downloaded, whether its model can be converted.

        Raises:
            ValueError: If it is known that it cannot.
        """
        return None

    def source_class(self, class_name: str) -> type[PreTrainedModel]:
        """The class of the sources of that name, one of `source_classes`; by default that of transformers."""
        return getattr(transformers, class_name)

    def target_class(self, source: PreTrainedModel) -> type[PreTrainedModel]:
        """The class of ours that a source is converted to."""
        return self.source_classes[type(source).__name__]

    @abstractmethod
    def convert_config(self, source: PreTrainedModel) -> PretrainedConfig:
        """The config of our dense model that is the same function as `source`.

        Raises:
            ValueError: If an option of `source` cannot be expressed; the message names it.
        """

    def source_weights(self, source: PreTrainedModel) -> Weights:
        """All weights of a source, by their names in transformers; they may share memory."""
        return source.state_dict(keep_vars=True)

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

    def source_outputs(self, source: PreTrainedModel, pixel_values: torch.Tensor, **options: Any) -> ModelOutput:
        """What a source puts out for images, by the names that the outputs of the converted model have.

        Args:
            source (`PreTrainedModel`):
                Of one of `source_classes`.
            pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
                The images.
            options:
                For the forward pass.
        """
        return source(pixel_values, **options)

    def convert_image_processor(self, image_processor: BaseImageProcessor) -> BaseImageProcessor:
        """What is saved with a model that came with this image processor.

        Raises:
            ValueError: If it prepares images in a way that cannot be saved.
        """
        return image_processor

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

    def native_version_of(self, config: PretrainedConfig) -> str | None:
        """`native_version` for a model of ours."""
        return self.native_version

    def native_class(self, config: PretrainedConfig, model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
        """The class of transformers that a model of ours is saved as, if its sizes fit.

        Args:
            config:
                Of our model.
            model_class (`type`):
                Its class.

        Raises:
            ValueError: If there is none.
        """
        for name, ours in self.source_classes.items():
            native = self.source_class(name)
            if ours is model_class and native.config_class.model_type == native_model_type(self, config):
                return native
        raise ValueError(f"transformers has no class for a {model_class.__name__} of the family {self.title}.")

    def native_config(
        self, config: PretrainedConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """The config of the model of transformers that is the same function as ours; the reverse of `convert_config`.

        Only families with a `native_version` are asked.

        Args:
            config:
                Of our model.
            native_class (`type`):
                What `native_class` gives for it.
            sizes ([`NativeSizes`]):
                Those of all of its blocks.

        Raises:
            ValueError: If an option or a size cannot be expressed; the message names it.
        """
        raise NotImplementedError

    def native_weights(
        self, weights: Weights, native_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """The weights of a model of ours under the names of transformers; the reverse of `convert_weights`.

        Here they have the same names, below the base model of the class; families with others say so. Biases that only
        the class of transformers has may be left out: they are zeros.

        Args:
            weights (`dict[str, torch.Tensor]`):
                All weights of our model, with queries scaled as transformers scales them.
            native_class (`type`):
                What `native_class` gives for it.
            config:
                What `native_config` gives for it.
        """
        prefix = native_class.base_model_prefix
        return {
            f"{prefix}.{name.removeprefix('snp_vit.')}" if name.startswith("snp_vit.") else name: weight
            for name, weight in weights.items()
        }

    def native_intermediate_sizes(self, config: PretrainedConfig, hidden_size: int, largest: int) -> Sequence[int]:
        """The MLP sizes that models of transformers can have, rising.

        Args:
            config:
                Of our model.
            hidden_size (`int`):
                The width that they are for.
            largest (`int`):
                The largest to be listed.
        """
        return range(1, largest + 1)


def native_model_type(family: Family, config: PretrainedConfig) -> str:
    """The `model_type` that a model of ours came with; models saved before configs told it are the family's first."""
    return getattr(config, "source_model_type", None) or family.model_types[0]


def config_fields(source: PreTrainedModel) -> dict[str, Any]:
    """Everything that the config of `source` says of the network and its labels, and which kind of config it was."""
    fields = {name: value for name, value in source.config.to_dict().items() if name not in _IDENTITY_FIELDS}
    return {**fields, "source_model_type": source.config.model_type}


def native_fields(config: PretrainedConfig, config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """What the config of a model of ours holds that its config in transformers reads, or that came with the source."""
    ours, theirs = type(config)().to_dict(), config_class().to_dict()
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in (*_IDENTITY_FIELDS, "source_model_type") and (name in theirs or name not in ours)
    }


def blocks_with_head_dim(source: PreTrainedModel, intermediate_size: int) -> dict[str, Any]:
    """`block_configs` of a source whose config states the size of a head, as plain checkpoints of pruned models do.

    Empty where the size of a head follows from the width.
    """
    config = source.config
    head_dim = getattr(config, "head_dim", None)
    if head_dim is None:
        return {}
    block = {
        "num_attention_heads": config.num_attention_heads,
        "qk_head_dim": head_dim,
        "v_head_dim": head_dim,
        "intermediate_size": intermediate_size,
        "attention_scale": head_dim**-0.5,
    }
    return {"block_configs": [block] * config.num_hidden_layers}


def rename_parts(name: str, parts: Mapping[str, str]) -> str:
    """A name of a weight with parts of it replaced, one after the other: `{part there: part here}`."""
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


def require_whole_stages(config: PretrainedConfig, family: Family) -> None:
    """Raises a `ValueError` for a backbone of ours whose stages transformers would count in another way."""
    if config.stage_depths is not None:
        raise ValueError(
            f"Blocks were dropped (stage_depths), but transformers counts the stages of a {family.title} backbone by "
            "its blocks, so that feature maps would change their names. Save it with layout='snp'."
        )


def require(config: PretrainedConfig, family: Family, **options: Any) -> None:
    """Raises a `ValueError` for the first option of a model of ours that its class in transformers has not."""
    for name, needed in options.items():
        if getattr(config, name) != needed:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}, but as {family.title} transformers knows only {needed!r}. Save "
                "it with layout='snp'."
            )

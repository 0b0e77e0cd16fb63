"""What has to be known of an architecture of ours; one object each, found by the `model_type` of its config."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .description import Structure


@dataclass(frozen=True)
class AttentionMaps:
    """The attention maps of one block, as pictures show them.

    Attributes:
        title (`str`): Which block, and whose attention it is.
        maps (`torch.Tensor` of shape `[images, heads, rows, columns]`): Shares of attention, on the CPU.
    """

    title: str
    maps: torch.Tensor


class Architecture(ABC):
    """One of our architectures: how its parts are found, and how its config is rewritten for other sizes."""

    @abstractmethod
    def describe(self, model: PreTrainedModel) -> Structure:
        """The structure of a model of this architecture; it may live on the meta device."""

    @abstractmethod
    def block_sizes(self, config: PretrainedConfig) -> list[dict[str, Any]]:
        """The entries of `block_configs`, one per block in execution order."""

    @abstractmethod
    def stream_widths(self, config: PretrainedConfig) -> list[int]:
        """The width of every residual stream."""

    @abstractmethod
    def block_stages(self, config: PretrainedConfig) -> list[int]:
        """For every block the position of its residual stream."""

    def query_key_step(self, config: PretrainedConfig) -> int:
        """What sizes of queries and keys are multiples of: 1, or 2 where their neurons stay together in pairs."""
        return 1

    def num_mergeable_tokens(self, config: PretrainedConfig) -> int:
        """How many tokens reach the first block of those that may merge.

        Raises:
            ValueError: If none may, with the reason.
        """
        raise ValueError(
            "token_sparsity is for models of the ViT family. The windows and patch mergings of a Swin need its whole "
            "grid of tokens: leave token_sparsity out."
        )

    @abstractmethod
    def resized_config(
        self, config: PretrainedConfig, blocks: list[dict[str, Any] | None], widths: list[int], *, refits: bool
    ) -> PretrainedConfig:
        """See [`optimum_snp.structure.resized_config`]."""

    def features(self, output: ModelOutput, config: PretrainedConfig) -> list[torch.Tensor]:
        """What counts of the outputs of a model without a classifier: feature maps, or pooled, or all features."""
        if "feature_maps" in output:
            return list(output.feature_maps)
        return [output.last_hidden_state if output.pooler_output is None else output.pooler_output]

    def patch_groups(self, model: PreTrainedModel, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """Which patches went together: their groups by number, `[images, rows, columns]`; `None` if none ever do.

        Args:
            model (`PreTrainedModel`):
                Of this architecture, without its head.
            pixel_values (`torch.Tensor` of shape `[images, channels, height, width]`):
                Images of the configured size.
        """
        return None

    @abstractmethod
    def blocks_with_maps(self, config: PretrainedConfig) -> list[int]:
        """The blocks whose attention probabilities a forward pass gives away, in the order in which it does."""

    @abstractmethod
    def attention_maps(self, model: PreTrainedModel, position: int, probabilities: torch.Tensor) -> AttentionMaps:
        """Attention probabilities as maps over the image.

        Args:
            model (`PreTrainedModel`):
                Of this architecture, without its head.
            position (`int`):
                Of the block among `blocks_with_maps`.
            probabilities (`torch.Tensor` of shape `[images * maps, heads, tokens, tokens]`):
                What the forward pass gave for it.
        """

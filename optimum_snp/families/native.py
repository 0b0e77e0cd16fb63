"""From a model of ours to a model of transformers: a plain checkpoint that needs no remote code.

Some classes of transformers read `head_dim`, which their configs do not declare: one size for all heads of all blocks.
A model whose blocks have one number of heads, one size of heads and one MLP size is therefore an ordinary model of
transformers, once the scale of its attention scores is folded into the queries.
"""

from collections.abc import Sequence

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from ..models import SNPModel, build_like
from ..structure import block_sizes, describe
from .family import Family, NativeSizes, Weights
from .registry import families, family_of_model


# The names that versions of transformers give the layer of the queries.
_QUERY_LAYERS = ("q_proj", "query")


def native_config(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> PretrainedConfig:
    """The config of the model of transformers that is the same function as one of ours.

    Args:
        config:
            Of our model.
        model_class (`type`):
            Its class.

    Returns:
        The config, with `head_dim`.

    Raises:
        ValueError: If there is none: the blocks differ in size or merge tokens, the family has no such classes or not
            these options, or the installed transformers does not read `head_dim`. The message names block and field.
    """
    family = native_family(config)
    native_class = family.native_class(config, model_class)
    sizes = _common_sizes(config)
    native = family.native_config(config, native_class, sizes)
    with torch.device("meta"):
        skeleton = native_class(native)
    widths = {
        module.out_features
        for name, module in skeleton.named_modules()
        if name.endswith(_QUERY_LAYERS) and isinstance(module, torch.nn.Linear)
    }
    if widths != {sizes.num_attention_heads * sizes.head_dim}:
        raise ValueError(
            f"transformers {transformers.__version__} does not read the size of a head from the config of a "
            f"{native_class.__name__}. A plain checkpoint of {family.title} needs transformers >= "
            f"{family.native_version_of(config)}; with an older one save with layout='snp'."
        )
    return native


def native_model(model: SNPModel) -> PreTrainedModel:
    """The model of transformers that is the same function as one of ours.

    Args:
        model:
            A model of ours. It is not changed.

    Returns:
        A model of a class of transformers, in eval mode, on the device and in the dtype of `model`.

    Raises:
        ValueError: As [`native_config`].
    """
    config = native_config(model.config, type(model))
    family = native_family(model.config)
    native_class = family.native_class(model.config, type(model))
    weights = family.native_weights(_with_native_scale(model, config.head_dim), native_class, config)

    def build(config: PretrainedConfig) -> PreTrainedModel:
        native = native_class(config)
        if any("pooler." in name and name not in weights for name in native.state_dict()):
            native.base_model.pooler = None  # as in a source that came without
        return native

    with torch.device("meta"):
        expected = build(config).state_dict()
    for name, weight in expected.items():
        if name.endswith(".bias") and name not in weights:
            weights[name] = torch.zeros(weight.shape, dtype=model.dtype, device=model.device)
    return build_like(model, build, config, weights)


def native_family(config: PretrainedConfig) -> Family:
    """The family of a model of ours, which can be saved as a plain checkpoint.

    Raises:
        ValueError: If it cannot.
    """
    family = family_of_model(config)
    if family.native_version_of(config) is None:
        able = ", ".join(other.title for other in families() if other.native_version)
        raise ValueError(
            f"{family.title_of(config, '')} cannot be saved as a plain checkpoint (layout='native'): "
            f"{family.not_native}. Models of {able} can. Save it with layout='snp'."
        )
    return family


def native_intermediate_sizes(config: PretrainedConfig, hidden_size: int, largest: int) -> Sequence[int]:
    """See [`Family.native_intermediate_sizes`]."""
    return native_family(config).native_intermediate_sizes(config, hidden_size, largest)


def _common_sizes(config: PretrainedConfig) -> NativeSizes:
    """The sizes of all blocks.

    Raises:
        ValueError: If two differ, or blocks merge tokens.
    """
    blocks = block_sizes(config)
    if any(block.get("merged_tokens") for block in blocks):
        raise ValueError(
            "The blocks of this model merge tokens (merged_tokens in its config), and those of a plain checkpoint "
            "(layout='native') do not. Save it with layout='snp'."
        )
    first = blocks[0]
    for index in range(len(blocks)):
        differences = [("v_head_dim", index, "qk_head_dim", index)]
        differences += [(name, index, name, 0) for name in ("num_attention_heads", "qk_head_dim", "intermediate_size")]
        for name, position, other_name, other in differences:
            size, expected = blocks[position][name], blocks[other][other_name]
            if size != expected:
                raise ValueError(
                    f"{name} of block {position} is {size}, but {other_name} of block {other} is {expected}. In a "
                    "plain checkpoint (layout='native') all blocks have one num_attention_heads, one size for "
                    "queries, keys and values, and one intermediate_size. Plan with SNPConfig(layout='native'), or "
                    "save it with layout='snp'."
                )
    return NativeSizes(first["num_attention_heads"], first["qk_head_dim"], first["intermediate_size"])


def _with_native_scale(model: SNPModel, head_dim: int) -> Weights:
    """The weights of a model, with what its scale differs by from that of transformers in the queries."""
    weights = model.state_dict()
    for block, sizes in zip(describe(model).blocks, block_sizes(model.config), strict=True):
        factor = sizes["attention_scale"] / head_dim**-0.5
        for name in (f"{block.query}.weight", f"{block.query}.bias"):
            if name in weights:
                weights[name] = weights[name] * factor
    return weights

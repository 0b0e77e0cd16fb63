"""Reshaping by selection: the weights of the kept neurons, nothing else, in a smaller model of the same architecture.

Source: SNP (arXiv 2404.11630). Query and key neurons go in pairs, value neurons with the columns of the output
projection that read them, MLP neurons with the columns of the second layer, and channels of the residual stream with
the rows of all that writes and the columns of all that reads the stream. The scale of the scores stays that of the
dense model. But for the width, the result equals the dense model with the other neurons set to zero; a
layer norm over fewer channels is another function.
"""

import torch

from ..models import SNPViTForImageClassification, SNPViTModel, build_like
from ..planning.plan import BlockPlan, PruningPlan


Weights = dict[str, torch.Tensor]

# Where the residual stream runs along the last dimension: embeddings, norms, and the columns of what reads it.
_READERS = (
    "q_proj.weight",
    "k_proj.weight",
    "v_proj.weight",
    "fc1.weight",
    "pooler.dense.weight",
    "classifier.weight",
)
_STREAM_VECTORS = ("_token", "position_embeddings")
# Where it runs along the first: the rows of what writes it.
_WRITERS = ("patch_embeddings.projection", "o_proj", "fc2")
_NORMS = ("layernorm", "layernorm_before", "layernorm_after")


def select_neurons(
    model: SNPViTModel | SNPViTForImageClassification, plan: PruningPlan
) -> SNPViTModel | SNPViTForImageClassification:
    """Builds the pruned model from the kept neurons of the dense one.

    Args:
        model:
            The dense model in our architecture; it is not changed.
        plan ([`PruningPlan`]):
            Made for this model.

    Returns:
        A model of the same class, in eval mode, on the same device and in the same dtype.

    Raises:
        ValueError: If the plan was made for a model of other sizes.
    """
    config = plan.pruned_config(model.config)
    weights = model.state_dict()
    for prefix, block in zip(block_prefixes(model), plan.blocks, strict=True):
        select_block(weights, prefix, block)
    hidden = torch.tensor(plan.hidden, device=model.device)
    weights = {name: select_hidden(name, weight, hidden) for name, weight in weights.items()}
    return build_like(model, type(model), config, weights)


def base_prefix(model: SNPViTModel | SNPViTForImageClassification) -> str:
    """What the names of the network's weights start with."""
    return "" if model is model.base_model else f"{model.base_model_prefix}."


def block_prefixes(model: SNPViTModel | SNPViTForImageClassification) -> list[str]:
    """What the names of each block's weights start with."""
    return [f"{base_prefix(model)}layers.{index}." for index in range(len(model.base_model.layers))]


def select_block(weights: Weights, prefix: str, block: BlockPlan) -> None:
    """Replaces the weights of one block by those of its kept neurons."""
    query_key = rows_of_heads(block.query_key, block.before["qk_head_dim"])
    value = rows_of_heads(block.value, block.before["v_head_dim"])
    keep_rows(weights, f"{prefix}attention.q_proj", query_key)
    keep_rows(weights, f"{prefix}attention.k_proj", query_key)
    keep_rows(weights, f"{prefix}attention.v_proj", value)
    keep_columns(weights, f"{prefix}attention.o_proj", value)
    keep_rows(weights, f"{prefix}mlp.fc1", block.mlp)
    keep_columns(weights, f"{prefix}mlp.fc2", block.mlp)


def rows_of_heads(kept: list[list[int]], head_dim: int) -> list[int]:
    """Rows of the whole projection from the kept neurons of each head."""
    return [head * head_dim + neuron for head, neurons in enumerate(kept) for neuron in neurons]


def keep_rows(weights: Weights, name: str, kept: list[int]) -> None:
    for part in ("weight", "bias"):
        if f"{name}.{part}" in weights:  # queries, keys and values may come without bias
            weights[f"{name}.{part}"] = weights[f"{name}.{part}"][kept]


def keep_columns(weights: Weights, name: str, kept: list[int]) -> None:
    weights[f"{name}.weight"] = weights[f"{name}.weight"][:, kept]


def select_hidden(name: str, weight: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The weight `name` with only the channels `hidden` of the residual stream."""
    if name.endswith(_READERS) or is_stream_vector(name):
        return weight.index_select(-1, hidden)
    if writes_stream(name) or name.rpartition(".")[0].endswith(_NORMS):
        return weight.index_select(0, hidden)
    return weight


def is_stream_vector(name: str) -> bool:
    """Whether the weight is itself added into the stream; its last dimension is the stream's."""
    return name.endswith(_STREAM_VECTORS)


def writes_stream(name: str) -> bool:
    """Whether the weight or bias is that of a layer that writes the stream; its first dimension is the stream's."""
    return name.rpartition(".")[0].endswith(_WRITERS)

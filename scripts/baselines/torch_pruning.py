"""Torch-Pruning (PyPI `torch-pruning`, arXiv 2301.12900) as a baseline, on ViT, DeiT and Swin of transformers 5.

Its own scripts for Hugging Face models do not import under transformers 5 (they name classes that are gone), so the
model is pruned through its library interface. What had to be put right so that it is at its best:

- It does not know attention: `num_heads` must name every q/k/v projection, or heads lose different numbers of neurons.
- `head_dim` is a plain attribute of the attention modules that it leaves as it was: queries are then cut into heads
  of the old size, an error at most ratios and a silently wrong model at some (2/3 of 3 heads make 1 head). Here the
  size is read from the pruned weights.
- The score scale changes on the way: the pruned modules keep that of the dense model, the same model built again from
  its config gets 1/sqrt(kept head size) without a word (1/8 becomes 1/sqrt(32)). The model returned here has the dense
  scale, stated in its config; the benchmark measures the other one too.
- It rounds kept sizes down, we to the nearest; and its FLOPs leave out the products of attention. It is given the
  kept sizes of a plan of ours instead, so that both have the same multiply-accumulates by our count.
- `in_channel_groups` and `out_channel_groups` default to dicts that all its pruners share: fresh ones are passed.
- In a Swin the relative position bias tables fall into the group of their attention, which then loses nothing at any
  ratio, without a word. The tables are named among the layers to ignore.

Queries, keys, values and the inputs of the output projection are one group to it and lose the same indices, the same
in every head. It cannot prune queries and keys only, or values only. In a Swin it cannot prune the width of a stage
before a patch merging: the merging's norm keeps more channels than it gets, and the forward pass fails.
"""

import copy
import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from optimum_snp.families import convert, our_weights
from optimum_snp.models import SNPModel
from optimum_snp.plan.plan import PruningPlan


IMPORTANCES = {"magnitude": "GroupMagnitudeImportance", "taylor": "GroupTaylorImportance"}


def prune_with_torch_pruning(
    source: PreTrainedModel, plan: PruningPlan, importance: str, images: torch.Tensor, labels: torch.Tensor
) -> SNPModel:
    """Prunes a ViT, DeiT or Swin of transformers to the sizes of `plan` by Torch-Pruning's own choice of neurons.

    Args:
        source (`PreTrainedModel`):
            The dense classifier; it is not changed.
        plan ([`PruningPlan`]):
            Gives the sizes, not the neurons. In every block queries, keys and values must keep the same number.
        importance (`str`):
            `"magnitude"` (L2 norm over the whole group) or `"taylor"` (|weight x gradient|).
        images, labels (`torch.Tensor`):
            For `"taylor"`: `[N, C, H, W]` and the true classes `[N]`.

    Returns:
        [`SNPModel`]: The pruned network in our architecture, to be counted and run as all others.

    Raises:
        ValueError: If queries, keys and values of a block are to keep different numbers, or widths of a Swin are to
            change.
    """
    import torch_pruning

    if len(plan.widths) > 1 and any(width.after < width.before for width in plan.widths):
        raise ValueError("Torch-Pruning cannot prune the widths of a Swin.")
    if any(block.after["qk_head_dim"] != block.after["v_head_dim"] for block in plan.blocks):
        raise ValueError("Torch-Pruning prunes queries, keys and values alike; the plan gives them different sizes.")
    model = copy.deepcopy(source).eval()
    if importance == "taylor":
        model(images, labels=labels).loss.backward()
    num_heads = {
        projection: layer.attention.num_attention_heads
        for layer in _layers(model)
        for projection in _projections(layer)
    }
    tables = [weight for name, weight in model.named_parameters() if name.endswith("relative_position_bias_table")]
    with warnings.catch_warnings():
        # Tokens and position embeddings are plain parameters; its guess of their last dimension is right.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        pruner = torch_pruning.pruner.BasePruner(
            model,
            images[:1],
            importance=getattr(torch_pruning.importance, IMPORTANCES[importance])(),
            pruning_ratio=0.0,
            pruning_ratio_dict=_ratios(model, plan),
            num_heads=num_heads,
            in_channel_groups={},
            out_channel_groups={},
            ignored_layers=_classifiers(model) + tables,
            output_transform=_logits,
        )
        pruner.step()
    return _to_our_architecture(source, model, plan)


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, in execution order."""
    return [module for module in model.modules() if hasattr(module, "layernorm_before")]


def _projections(layer: nn.Module) -> tuple[nn.Module, ...]:
    return layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj


def _ratios(model: PreTrainedModel, plan: PruningPlan) -> dict[nn.Module, float]:
    """The ratio of every group that loses neurons, under each layer that may be the first of it."""
    ratios = {}
    if plan.widths[0].after < plan.widths[0].before:
        projection = model.base_model.embeddings.patch_embeddings.projection
        ratios[projection] = _ratio(plan.widths[0].before, plan.widths[0].after)
    for layer, block in zip(_layers(model), plan.blocks, strict=True):
        for modules, size in ((_projections(layer), "v_head_dim"), ((layer.mlp.fc1,), "intermediate_size")):
            if block.after[size] < block.before[size]:
                ratios |= dict.fromkeys(modules, _ratio(block.before[size], block.after[size]))
    return ratios


def _ratio(before: int, after: int) -> float:
    """Torch-Pruning keeps int(before * (1 - ratio)); the half keeps rounding errors away from the next integer."""
    return 1 - (after + 0.5) / before


def _classifiers(model: PreTrainedModel) -> list[nn.Module]:
    """Everything after the base model: class scores are no neurons to prune."""
    return [child for child in model.children() if child is not model.base_model]


def _logits(output: Any) -> torch.Tensor:
    return output.logits


def _to_our_architecture(source: PreTrainedModel, model: PreTrainedModel, plan: PruningPlan) -> SNPModel:
    """The pruned weights in our architecture, whose config states head sizes and the dense score scale.

    Loading is strict and checks every shape: a size that Torch-Pruning did not reach is an error.
    """
    dense = convert(source)
    pruned = type(dense)(plan.pruned_config(dense.config))
    pruned.load_state_dict(our_weights(model))
    return pruned.eval()

"""Sizes for plain checkpoints: one number of heads, one size of heads and one MLP size for all blocks.

Three numbers are then to be chosen, the size of heads, that of MLPs and the width, so all combinations are tried: of
those that the budget pays for, the one that loses least.

Source: our choice.
"""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from ..configuration import SNPConfig
from ..families import native_config, native_family, native_intermediate_sizes
from ..losses import Losses
from ..models import SNPModel
from ..plan.sizes import Part, Sizes, dense_sizes, sizes_of_shares
from ..structure import block_sizes, resized_config
from .budget import Costs
from .removal import kept_head_counts


def check_native(config: SNPConfig, model: SNPModel, minimum: Sizes) -> None:
    """Tells before any work whether what is planned for a model fits a plain checkpoint.

    Args:
        config ([`SNPConfig`]):
            What is asked for.
        model:
            The model that is to be pruned.
        minimum (`dict[Slot, int]`):
            With a budget the least size of every part.

    Raises:
        ValueError: If not; the message names what stands in the way.
    """
    from_shares = config.budget is None
    sizes = sizes_of_shares(config, model.config) if from_shares else native_minimum(minimum, model.config)
    widths = [size for (part, _), size in sizes.items() if part is Part.WIDTH]
    counts = kept_head_counts(config, model.config)
    resized = [
        {
            **block,
            "num_attention_heads": counts[index],
            **{part.size_name: sizes[part, index] for part in (Part.QUERY_KEY, Part.VALUE, Part.MLP)},
        }
        for index, block in enumerate(block_sizes(model.config))
    ]
    dropped = config.dropped_blocks
    if isinstance(dropped, list):
        resized = [None if index in dropped else block for index, block in enumerate(resized)]
    variants = [resized]
    if dropped not in (0, []) and not isinstance(dropped, list):  # some block goes, which one is still unknown
        variants.append([None, *resized[1:]])
    for variant in variants:
        native_config(resized_config(model.config, variant, widths, refits=False), type(model))


def native_minimum(minimum: Sizes, model_config: PretrainedConfig) -> Sizes:
    """The least sizes that all blocks may have together.

    Args:
        minimum (`dict[Slot, int]`):
            The least size of every part.
        model_config:
            Of the model that is to be pruned.

    Raises:
        ValueError: If a part of one block must stay larger than another block has it.
    """
    native_family(model_config)
    dense = dense_sizes(model_config)
    head_dim, _ = _common_range("the size of heads", (Part.QUERY_KEY, Part.VALUE), minimum, dense)
    least, most = _common_range("intermediate_size", (Part.MLP,), minimum, dense)
    width = minimum[Part.WIDTH, 0]
    while not (allowed := _mlp_sizes(model_config, width, least, most)):
        if width >= dense[Part.WIDTH, 0]:
            raise ValueError(
                f"There is no intermediate_size from {least} to {most} that a plain checkpoint (layout='native') of "
                f"this family can have at hidden_size {width}. Lower minimum_intermediate_size, or save it with "
                "layout='snp'."
            )
        width += 1
    return _same_sizes(minimum, head_dim, allowed[0], width)


def allocate_native(
    costs: Costs, losses: Losses, target: float, minimum: Sizes, round_to: int, *, model_config: PretrainedConfig
) -> Sizes:
    """Chooses the sizes that lose least at a cost of at most `target`, the same for all blocks.

    Args:
        costs ([`SizeCosts`] or [`LatencyCosts`]), losses ([`Losses`]), target (`float`):
            As for [`allocate`].
        minimum (`dict[Slot, int]`):
            Of [`native_minimum`].
        round_to (`int`):
            Sizes are multiples of this, or the least or the largest that can be.
        model_config:
            Of the model that is to be pruned.

    Returns:
        `dict[Slot, int]`: A size for every part: the least ones where even those cost more.
    """
    dense, best = costs.sizes, (float("inf"), minimum)
    least_head, most_head = _common_range("the size of heads", (Part.QUERY_KEY, Part.VALUE), minimum, dense)
    least_mlp, most_mlp = _common_range("intermediate_size", (Part.MLP,), minimum, dense)
    head_losses = sum(curve[: most_head + 1] for curve in (*losses.query_key, *losses.value))
    mlp_losses = sum(curve[: most_mlp + 1] for curve in losses.mlp)
    mlps = [slot for slot in dense if slot[0] is Part.MLP]
    for width in _rounded(range(minimum[Part.WIDTH, 0], dense[Part.WIDTH, 0] + 1), round_to):
        allowed = _rounded(_mlp_sizes(model_config, width, least_mlp, most_mlp), round_to)
        if not allowed:
            continue
        candidates = torch.tensor(allowed)
        for head_dim in _rounded(range(least_head, most_head + 1), round_to):
            sizes = _same_sizes(dense, head_dim, allowed[0], width)
            curve = sum(costs.curve(slot, candidates, sizes) for slot in mlps)
            total = mlp_losses[candidates] + head_losses[head_dim] + losses.widths[0][width]
            total[costs.total(sizes) + curve - curve[0] > target] = float("inf")
            if total.min() < best[0]:
                best = float(total.min()), _same_sizes(dense, head_dim, allowed[int(total.argmin())], width)
    return best[1]


def _mlp_sizes(model_config: PretrainedConfig, width: int, least: int, most: int) -> list[int]:
    """The MLP sizes that can be had at a width."""
    return [size for size in native_intermediate_sizes(model_config, width, most) if size >= least]


def _rounded(sizes: Sequence[int], round_to: int) -> list[int]:
    """The multiples among sizes, and the first and the last of all."""
    return [size for size in sizes if size % round_to == 0 or size in (sizes[0], sizes[-1])]


def _common_range(name: str, parts: tuple[Part, ...], minimum: Sizes, dense: Sizes) -> tuple[int, int]:
    """The least and the largest size that these parts of all blocks can have together."""
    slots = [slot for slot in dense if slot[0] in parts]
    least, most = max(minimum[slot] for slot in slots), min(dense[slot] for slot in slots)
    if least > most:
        raise ValueError(
            f"With layout='native' all blocks have one size, but {name} must stay at least {least} in one block and "
            f"is {most} in another. Lower the minimum, unfreeze that part, or save it with layout='snp'."
        )
    return least, most


def _same_sizes(slots: Sizes, head_dim: int, intermediate_size: int, width: int) -> Sizes:
    sizes = {
        Part.QUERY_KEY: head_dim,
        Part.VALUE: head_dim,
        Part.MLP: intermediate_size,
        Part.WIDTH: width,
    }
    return {(part, index): sizes[part] for part, index in slots}

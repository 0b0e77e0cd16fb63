"""How many tokens every block merges, from the share of the patches that is to be gone."""

from transformers import PretrainedConfig

from ..structure import block_stages, num_mergeable_tokens
from .sizes import block_shares


def merged_tokens(
    token_sparsity: float | list[float], model_config: PretrainedConfig, kept_blocks: list[int]
) -> list[int]:
    """By how many tokens every block of the dense model leaves fewer.

    A share falls to every second block from the first, most, to the last, none, in equal steps: merging early saves
    most, and finding the pairs takes time in every block that merges (docs/tokens.md). A list says it block by block.

    Args:
        token_sparsity (`float` or `list[float]`):
            As in [`SNPConfig`].
        model_config:
            Of the dense model.
        kept_blocks (`list[int]`):
            The blocks that stay; the others merge nothing.

    Raises:
        ValueError: If the architecture cannot merge tokens, the list has another length, or a block would have to
            merge more than half of the patches that reach it.
    """
    shares = block_shares("token_sparsity", token_sparsity, block_stages(model_config))
    if not any(shares):
        return [0] * len(shares)
    num_patches = num_mergeable_tokens(model_config)
    if isinstance(token_sparsity, list):
        asked = [round(share * num_patches) if index in kept_blocks else 0 for index, share in enumerate(shares)]
        _check_halves(asked, num_patches)
        return asked
    counts = falling_counts(num_patches, len(kept_blocks), token_sparsity)
    merged = [0] * len(shares)
    for index, count in zip(kept_blocks, counts, strict=True):
        merged[index] = count
    return merged


def falling_counts(num_patches: int, num_blocks: int, share: float) -> list[int]:
    """Counts that sum to `share` of the patches and fall in equal steps, in every second block from the first on.

    The last of these has none unless it must. No block merges more than half of the patches that reach it; what is too
    much for one falls to the others.

    Raises:
        ValueError: If the blocks are too few for so large a share.
    """
    total, num_merging = round(share * num_patches), (num_blocks + 1) // 2
    steps = num_merging * (num_merging - 1) / 2
    merging: list[int] = []
    for index in range(num_merging):
        steps_left = (num_merging - 1 - index) * (num_merging - 2 - index) / 2
        due = total if steps_left == 0 else round(total * (1 - steps_left / steps))
        left = num_patches - sum(merging)
        # More than the step, where the blocks behind could not halve what it leaves often enough.
        most_left = (num_patches - total) * 2 ** (num_merging - 1 - index)
        merging.append(min(max(due - sum(merging), left - most_left), left // 2))
    if sum(merging) < total:
        blocks = "one block, which merges at most half of its patches, leaves"
        if num_blocks > 1:
            blocks = f"{num_blocks} blocks, of which every second merges at most half of its patches, leave"
        raise ValueError(
            f"token_sparsity is {share}, but {blocks} {1 - sum(merging) / num_patches:.3f} of them. Name a smaller "
            "share, or a list with the share of every block."
        )
    counts = [0] * num_blocks
    counts[::2] = merging
    return counts


def _check_halves(merged: list[int], num_patches: int) -> None:
    for index, count in enumerate(merged):
        if 2 * count > num_patches:
            raise ValueError(
                f"token_sparsity has block {index} merge {count} tokens, but {num_patches} patches reach it, of which "
                "at most half can merge. Name a smaller share there."
            )
        num_patches -= count

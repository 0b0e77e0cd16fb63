"""Which sums statistics of a model hold, so that those from a file can be held against it."""

from ..structure import Block, Norm, Structure


# Of sums by their full name in a file, such as `blocks.0.cosines`.
Shapes = dict[str, tuple[int, ...]]


def shapes_of_sums(structure: Structure, *, moments: bool, sensitivities: bool) -> Shapes:
    """The shapes of all sums.

    Args:
        structure ([`Structure`]):
            Of the model.
        moments, sensitivities (`bool`):
            As for [`collect_statistics`]; without moments there are no sensitivities.
    """
    shapes: Shapes = {}
    for index, block in enumerate(structure.blocks):
        for name, shape in _shapes_of_block(block, moments, moments and sensitivities).items():
            shapes[f"blocks.{index}.{name}"] = shape
    for stream in structure.streams:
        for norm in stream.norms if moments else ():
            for name, shape in _shapes_of_norm(norm, stream.width, sensitivities).items():
                shapes[f"norms.{norm.name}.{name}"] = shape
    return shapes


def _shapes_of_block(block: Block, moments: bool, sensitivities: bool) -> Shapes:
    heads, head_dim = block.num_attention_heads, block.qk_head_dim
    by_head = (heads, head_dim, head_dim)
    shapes: Shapes = {"cosines": by_head, "weighted_cosines": by_head, "energies": (heads, head_dim), "num_maps": ()}
    shapes |= {"stream_change": (), "stream_num_tokens": ()}
    if moments:
        shapes |= {"query_num_tokens": (), "query_moment": by_head, "key_moment": by_head}
        shapes |= _shapes_of_moment("context_", heads * block.v_head_dim)
        shapes |= _shapes_of_moment("mlp_", block.intermediate_size)
    if sensitivities:
        names = ("sensitivity_images", "attention_sensitivity", "mlp_sensitivity", "removal_change")
        shapes |= {"query_sensitivity": by_head, **dict.fromkeys(names, ())}
    return shapes


def _shapes_of_norm(norm: Norm, width: int, sensitivities: bool) -> Shapes:
    shapes = _shapes_of_moment("", norm.chunks * width)
    return shapes | ({"sensitivity_images": (), "sensitivity": ()} if sensitivities else {})


def _shapes_of_moment(prefix: str, size: int) -> Shapes:
    return {f"{prefix}num_tokens": (), f"{prefix}moment": (size, size), f"{prefix}sum": (size,)}

"""The dense model in which all that a plan of method `"snp"` drops is masked, by the roles of its layers.

An independent computation of what the pruned model must compute.
"""

import torch
import torch.nn.functional as F

from optimum_snp.structure import architecture_of, describe


def masked(model, plan):
    """A dense model in which every neuron that the plan drops is zeroed by a hook; norms see kept channels."""
    structure = describe(model)
    for block, block_plan in zip(structure.blocks, plan.blocks, strict=True):
        if block_plan.after is None:
            block.module.register_forward_hook(lambda _module, inputs, outputs: (inputs[0], *outputs[1:]))
            continue
        before = block_plan.before
        for layers, heads, size in (
            ((block.query, block.key), block_plan.query_key, before["qk_head_dim"]),
            ((block.value,), block_plan.value, before["v_head_dim"]),
        ):
            neurons = dict(zip(block_plan.heads, heads, strict=True))
            mask = torch.cat([ones_at(neurons.get(h, []), size) for h in range(before["num_attention_heads"])])
            for layer in layers:
                model.get_submodule(layer).register_forward_hook(lambda _m, _i, output, mask=mask: output * mask)
        mask = ones_at(block_plan.mlp, before["intermediate_size"])
        model.get_submodule(block.down).register_forward_pre_hook(lambda _m, inputs, mask=mask: inputs[0] * mask)
    for stream, width in zip(structure.streams, plan.widths, strict=True):
        if width.after < width.before:
            norms = [(name, 1) for name in stream.scales]
            norms += [(norm.name, norm.repeats) for norm in stream.norms if norm.normalizes]
            for name, repeats in norms:
                model.get_submodule(name).register_forward_hook(norm_over(width.kept, repeats))
            mask = ones_at(width.kept, width.before)
            for name in (norm.name for norm in stream.norms if not norm.normalizes):
                model.get_submodule(name).register_forward_hook(lambda _m, _i, output, mask=mask: output * mask)
    return model


def ones_at(kept, size):
    mask = torch.zeros(size)
    mask[kept] = 1
    return mask


def norm_over(kept, repeats):
    """Layer norm over the kept channels, of tokens that lie side by side; what reads it sees zeros elsewhere."""

    def channels_of(tensor):
        return tensor.unflatten(-1, (repeats, -1))[..., kept]

    def replace(module, inputs, _output):
        states, weight, bias = (channels_of(tensor) for tensor in (inputs[0], module.weight, module.bias))
        output = torch.zeros_like(inputs[0])
        normed = F.layer_norm(states, states.shape[-2:], weight, bias, module.eps)
        output.unflatten(-1, (repeats, -1))[..., kept] = normed
        return output

    return replace


def assert_same_outputs(actual, expected, plan, model):
    """The outputs of the pruned model are those of the masked one, whose streams keep the widths of the dense `model`.

    So features are compared on the kept channels, and attention maps of the blocks and heads that both have.
    """
    kept = [width.kept for width in plan.widths]

    def close(one, other, stream=-1):
        torch.testing.assert_close(one, on_kept(other, kept[stream], one), atol=1e-5, rtol=1e-5)

    for name, value in actual.items():
        if name == "feature_maps":
            stages = [model.config.stage_names.index(feature) for feature in model.out_features]
            for stage, one, other in zip(stages, value, expected.feature_maps, strict=True):
                close(one, other, stream=min(max(stage - 1, 0), len(kept) - 1))  # the stem's is the first stage's
        elif name not in ("attentions", "hidden_states"):
            close(value, expected[name])
    if actual.attentions:
        for one, other, heads in shared_maps(actual.attentions, expected.attentions, plan, model.config):
            torch.testing.assert_close(one, other[:, heads], atol=1e-5, rtol=1e-5)


def on_kept(dense, kept, like):
    """What a masked model puts out, on the kept channels: along the one dimension in which it is larger."""
    unlike = [axis for axis, size in enumerate(dense.shape) if size != like.shape[axis]]
    if not unlike:
        return dense
    (axis,) = unlike
    return dense.index_select(axis, torch.tensor(kept))


def shared_maps(actual, expected, plan, config):
    """The attention maps of both of every block that both give away, with the kept heads of that block."""
    architecture = architecture_of(config)
    kept = [index for index, block in enumerate(plan.blocks) if block.after is not None]
    dense = dict(zip(architecture.blocks_with_maps(config), expected, strict=True))
    pruned = [kept[position] for position in architecture.blocks_with_maps(plan.pruned_config(config))]
    return [
        (one, dense[index], plan.blocks[index].heads)
        for index, one in zip(pruned, actual, strict=True)
        if index in dense
    ]

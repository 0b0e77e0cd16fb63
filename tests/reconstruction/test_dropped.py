"""What a block loses that goes, once the layer before it makes up for what is linear in its inputs."""

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.processes import process_state
from optimum_snp.reconstruction import compensated_losses
from optimum_snp.reconstruction.regression import ridge_for
from optimum_snp.reconstruction.token_weights import evened, token_energies
from optimum_snp.structure import describe
from tests.helpers import build_source
from tests.reconstruction.test_regression import direct_solution


IMAGES = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def passed(model, index):
    """The neurons of the block before, and what a block adds."""
    blocks, found = describe(model).blocks, {}
    handles = [
        model.get_submodule(blocks[index - 1].down).register_forward_pre_hook(
            lambda _module, inputs: found.__setitem__("neurons", inputs[0])
        ),
        blocks[index].module.register_forward_hook(
            lambda _module, inputs, outputs: found.__setitem__("added", outputs[0] - inputs[0])
        ),
    ]
    model(IMAGES)
    for handle in handles:
        handle.remove()
    return found["neurons"], found["added"]


@pytest.mark.parametrize(
    "class_name, index, batch_size",
    [("ViTForImageClassification", 2, 8), ("SwinForImageClassification", 1, 5), ("ViTModel", 1, 1)],
)
def test_the_loss_is_what_a_regression_on_half_of_the_images_leaves_of_the_other(class_name, index, batch_size):
    model = convert(build_source(class_name)).eval()
    neurons, added = passed(model, index)
    places = [
        (batch + image) % 2 for batch, images in enumerate(IMAGES.split(batch_size)) for image in range(len(images))
    ]
    fitted, measured = (torch.tensor(places) == half for half in (0, 1))
    energy = token_energies(model, IMAGES[:batch_size])[describe(model).blocks[index].down]
    weights = evened(energy)
    weight, bias = direct_solution(
        neurons[fitted].flatten(0, 1),
        added[fitted].flatten(0, 1),
        torch.zeros(added.shape[-1], neurons.shape[-1]),
        ridge_for([IMAGES[fitted]]),
        with_bias=True,
        row_weights=weights.repeat(int(fitted.sum())),
    )
    error = (added[measured].double() - neurons[measured].double() @ weight.T - bias).square().sum(-1)
    expected = (error * weights).mean() * energy.sum() / added.shape[-1]
    losses = compensated_losses(model, IMAGES.to(process_state().device).split(batch_size))
    assert losses[index] == pytest.approx(float(expected), rel=1e-3)
    stages = [block.stream for block in describe(model).blocks]
    assert [loss is None for loss in losses] == [i == 0 or stages[i] != stages[i - 1] for i in range(len(stages))]


def test_one_image_alone_tells_nothing():
    model = convert(build_source("ViTForImageClassification"))
    assert compensated_losses(model, [IMAGES[:1].to(process_state().device)]) == [None] * len(describe(model).blocks)


@pytest.mark.parametrize("dropped", [1, "auto"])
def test_blocks_that_can_be_made_up_for_go_first(dropped):
    """A block that adds a linear map of the neurons before costs nothing, however much it changes its stream."""
    pruner = SNPPruner(build_source("ViTForImageClassification"))
    blocks = describe(pruner.model).blocks
    with torch.no_grad():
        for name, parameter in blocks[2].module.named_parameters():
            parameter.zero_()
            if name.endswith("fc2.bias"):
                parameter.normal_(std=20, generator=torch.Generator().manual_seed(0))
    pruner.calibrate(IMAGES, len(IMAGES))
    budget = {"target_flops": 0.7} if dropped == "auto" else {}
    plan = pruner.plan(SNPConfig(dropped_blocks=dropped, **budget))
    assert [index for index, block in enumerate(plan.blocks) if block.after is None] == [2]


def test_a_budget_keeps_all_blocks_and_heads_where_that_loses_less(monkeypatch):
    from optimum_snp.planning import trial

    pruner = SNPPruner(build_source("ViTForImageClassification"))
    pruner.calibrate(IMAGES, len(IMAGES))
    config = SNPConfig(target_flops=0.3, dropped_blocks="auto", head_sparsity="auto")
    monkeypatch.setattr(trial, "compensated_losses", lambda *_: [0.0] * 3)  # as if nothing was lost with any block
    found = []
    changes = trial._changes
    monkeypatch.setattr(trial, "_changes", lambda *inputs: found.extend(changes(*inputs)) or found)
    plan = pruner.plan(config)
    of_all, of_fewer = found
    assert any(block.after is None for block in plan.blocks) == (of_fewer < of_all)
    assert plan.config == config

"""When a pruner reconstructs, and what is recorded of it."""

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import copies
from optimum_snp.plan.plan import PruningPlan
from optimum_snp.processes import process_state
from optimum_snp.pruning import build_pruned
from tests.helpers import build_source


IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(7))
SHARES = {"mlp_sparsity": 0.5}


@pytest.fixture
def pruner():
    pruner = SNPPruner(build_source("ViTForImageClassification"))
    pruner.calibrate(IMAGES, len(IMAGES))
    return pruner


def weights(pruner, **options):
    model = pruner.copy().prune(SNPConfig(**SHARES, **options))
    return torch.cat([weight.flatten() for weight in model.state_dict().values()])


def test_closed_form_methods_reconstruct_where_there_are_images(pruner):
    assert torch.equal(weights(pruner), weights(pruner, reconstruction=True))
    assert not torch.equal(weights(pruner), weights(pruner, reconstruction=False))
    assert torch.equal(weights(pruner, method="snp"), weights(pruner, method="snp", reconstruction=False))


def test_statistics_alone_give_the_closed_form(pruner, tmp_path):
    pruner.statistics.save(tmp_path / "statistics.safetensors")
    closed = weights(pruner, reconstruction=False)
    pruner.load_statistics(tmp_path / "statistics.safetensors")
    assert torch.equal(weights(pruner), closed)
    for options in ({"reconstruction": True}, {"reconstruction_copies": 2}):
        ((name, value),) = options.items()
        with pytest.raises(ValueError, match=f"{name}={value} refits on images"):
            pruner.prune(SNPConfig(**options, **SHARES))


def test_images_can_come_with_the_plan(pruner, tmp_path):
    expected = weights(pruner)
    pruner.statistics.save(tmp_path / "statistics.safetensors")
    pruner.load_statistics(tmp_path / "statistics.safetensors")
    plan = pruner.plan(SNPConfig(num_calibration_samples=len(IMAGES), **SHARES))
    found = pruner.prune(plan, calibration_dataset=IMAGES)
    assert torch.equal(torch.cat([weight.flatten() for weight in found.state_dict().values()]), expected)
    assert pruner.pruning_plan.reconstruction_images == len(IMAGES)


def test_the_plan_says_on_how_many_images(pruner):
    reconstructed, closed = pruner.copy(), pruner.copy()
    reconstructed.prune(SNPConfig(**SHARES))
    closed.prune(SNPConfig(reconstruction=False, **SHARES))
    assert reconstructed.pruning_plan.reconstruction_images == len(IMAGES)
    assert closed.pruning_plan.reconstruction_images is None
    for pruned in (reconstructed, closed):
        assert PruningPlan.from_dict(pruned.pruning_plan.to_dict()) == pruned.pruning_plan
    assert reconstructed.calibration_images is None  # they were for the model before


def test_few_images_are_joined_by_copies(pruner):
    plan = pruner.plan(SNPConfig(reconstruction_copies=1, seed=3, **SHARES))
    images = IMAGES.to(process_state().device)
    alone = build_pruned(pruner.model, plan, pruner.statistics, images.split(16))
    with_copies = build_pruned(pruner.model, plan, pruner.statistics, [images, images.flip(-1)])
    found = pruner.prune(plan)
    assert (pruner.pruning_plan.reconstruction_images, pruner.pruning_plan.reconstruction_copies) == (12, 1)
    for name, weight in found.state_dict().items():  # from the images in another order
        torch.testing.assert_close(weight, with_copies.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert not torch.equal(with_copies.state_dict()["classifier.weight"], alone.state_dict()["classifier.weight"])


def test_by_default_as_many_as_few_images_need(pruner, monkeypatch):
    monkeypatch.setattr(copies, "ENOUGH_IMAGES", 2 * len(IMAGES))
    pruner.prune(SNPConfig(**SHARES))
    assert pruner.pruning_plan.reconstruction_copies == 1


def test_plans_from_before_say_nothing(pruner):
    values = pruner.plan(SNPConfig(**SHARES)).to_dict()
    del values["reconstruction_images"], values["reconstruction_copies"], values["config"]["reconstruction_copies"]
    plan = PruningPlan.from_dict(values)
    assert plan.reconstruction_images is plan.reconstruction_copies is None


def test_a_stream_is_read_once():
    class Stream(torch.utils.data.IterableDataset):
        reads = 0

        def __iter__(self):
            self.reads += 1
            return iter(IMAGES)

    stream = Stream()
    pruner = SNPPruner(build_source("ViTForImageClassification"))
    pruner.calibrate(stream, 8)
    pruner.prune(SNPConfig(**SHARES))
    assert stream.reads == 1
    assert pruner.pruning_plan.reconstruction_images == 8


@pytest.mark.parametrize("value", ["yes", 2])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match="reconstruction must be True, False or None"):
        SNPConfig(reconstruction=value, **SHARES)


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_other_numbers_of_copies_are_refused(value):
    with pytest.raises(ValueError, match="reconstruction_copies must be an integer of at least 0"):
        SNPConfig(reconstruction_copies=value, **SHARES)


@pytest.mark.parametrize("options", [{"reconstruction": False}, {"method": "snp"}])
def test_copies_without_a_reconstruction_are_refused(options):
    with pytest.raises(ValueError, match="reconstruction_copies=2 means nothing with"):
        SNPConfig(reconstruction_copies=2, **options, **SHARES)

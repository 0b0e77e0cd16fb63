"""Calibration counts every image once, and its statistics can be kept."""

from types import SimpleNamespace

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import CalibrationStatistics, collect_statistics, model_fingerprint
from optimum_snp.families import convert
from tests.helpers import build_source


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification", "SwinBackbone"])
def test_batch_size_changes_nothing(class_name):
    model = convert(build_source(class_name))
    images = torch.randn(11, 3, 32, 32)
    one, other = (
        # The random signs of sensitivities are drawn batch by batch.
        collect_statistics(model, images, num_samples=11, batch_size=size, sensitivities=False)
        for size in (11, 4)
    )
    assert one.num_images == other.num_images == 11
    assert one.norms.keys() == other.norms.keys()
    for first, second in zip([*one.blocks, *one.norms.values()], [*other.blocks, *other.norms.values()], strict=True):
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            assert tensor.dtype == torch.float64
            torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_images_go_forward_once_and_sums_are_those_without_sensitivities(class_name):
    """The first 16 images also go backward; with batches of 12 the second batch has some of both kinds."""
    model, images = convert(build_source(class_name)), torch.randn(24, 3, 32, 32)
    seen = []
    handle = model.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    with_them = collect_statistics(model, images, num_samples=24, batch_size=12)
    handle.remove()
    without = collect_statistics(model, images, num_samples=24, batch_size=12, sensitivities=False)
    assert sum(seen) == with_them.num_images == 24
    assert with_them.blocks[0]["sensitivity_images"] == 16
    pairs = [*zip(with_them.blocks, without.blocks, strict=True)]
    pairs += [(sums, without.norms[name]) for name, sums in with_them.norms.items()]
    for sums, expected in pairs:
        for name, tensor in expected.items():
            torch.testing.assert_close(sums[name], tensor, rtol=1e-4, atol=1e-4 * float(tensor.abs().max()))
    assert not any(tensor.requires_grad for sums, _ in pairs for tensor in sums.values())


def test_no_map_of_the_size_of_attention_is_kept(source):
    statistics = collect_statistics(convert(source), torch.randn(4, 3, 32, 32), num_samples=4, moments=False)
    head_dim = 12
    assert all(tensor.numel() <= 4 * head_dim**2 for block in statistics.blocks for tensor in block.values())


def test_one_process_moves_nothing_to_its_device(monkeypatch):
    """Apple's GPUs have no float64, so that not even zeros could be moved there."""
    device = torch.device("meta")  # what is moved there is lost
    monkeypatch.setattr(
        "optimum_snp.calibration.statistics.process_state", lambda: SimpleNamespace(device=device, num_processes=1)
    )
    statistics = CalibrationStatistics([{"energies": torch.ones(2, dtype=torch.float64)}], num_images=3)
    reduced = statistics.reduce()
    assert reduced.num_images == 3
    assert torch.equal(reduced.blocks[0]["energies"], torch.ones(2, dtype=torch.float64))


def test_model_is_left_as_it_was(source):
    model = convert(source).train()
    before = model_fingerprint(model)
    collect_statistics(model, torch.randn(4, 3, 32, 32), num_samples=4)
    assert model.training
    assert model_fingerprint(model) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_an_image_is_bad(source):
    model = convert(source)
    images = [torch.randn(3, 32, 32), torch.randn(3, 16, 16)]
    with pytest.raises(ValueError, match="Image 1"):
        collect_statistics(model, images, num_samples=2)
    assert not any(module._forward_hooks for module in model.modules())


def test_fewer_images_than_asked_for_is_a_warning(source, caplog):
    statistics = collect_statistics(convert(source), torch.randn(4, 3, 32, 32), num_samples=64)
    assert statistics.num_images == 4
    assert "The dataset has 4 images; calibration asked for 64" in caplog.text


def test_saved_statistics_make_the_same_plan(source, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(torch.randn(9, 3, 32, 32), num_samples=9)
    pruner.statistics.save(tmp_path / "statistics.safetensors")
    config = SNPConfig(qk_sparsity=0.5, num_singular_directions=0.9)

    later = SNPPruner.from_pretrained(source)
    later.load_statistics(tmp_path / "statistics.safetensors")
    assert later.statistics.num_images == 9
    assert later.plan(config).to_dict() == pruner.plan(config).to_dict()


def test_statistics_of_another_model_are_refused(source, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(torch.randn(2, 3, 32, 32), num_samples=2)
    path = tmp_path / "statistics.safetensors"
    pruner.statistics.save(path)
    with pytest.raises(ValueError, match="are those of another model"):
        SNPPruner.from_pretrained(build_source("DeiTForImageClassification")).load_statistics(path)


def test_statistics_of_another_version_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "statistics.safetensors"
    statistics = CalibrationStatistics([{"energies": torch.ones(2, dtype=torch.float64)}], num_images=3)
    with monkeypatch.context() as other_version:
        other_version.setattr("optimum_snp.calibration.statistics.FORMAT_VERSION", 0)
        statistics.save(path)
    with pytest.raises(ValueError, match=r"format_version of the statistics in .* must be 2, got 0. Calibrate again"):
        CalibrationStatistics.load(path)
    statistics.save(path)
    assert CalibrationStatistics.load(path).num_images == 3


def test_other_safetensors_files_are_refused(source, tmp_path):
    source.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no calibration statistics"):
        CalibrationStatistics.load(tmp_path / "model.safetensors")
    (tmp_path / "text").write_text("no tensors")
    for name in ("text", "missing"):
        with pytest.raises(ValueError, match="holds no calibration statistics"):
            CalibrationStatistics.load(tmp_path / name)
    with pytest.raises(ValueError, match="name a file in a folder that exists"):
        CalibrationStatistics([]).save(tmp_path / "missing" / "file")

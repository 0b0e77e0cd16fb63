"""Calibration counts every image once, on one process or several, and its statistics can be kept."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import CalibrationStatistics, collect_statistics, model_fingerprint
from optimum_snp.conversion import convert
from tests.helpers import build_source


# 70 images in batches of 8 on 2 or 3 processes: a short last batch, and not the same number of batches for each.
JOB = """
import json, sys
import torch
from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.processes import process_state
from tests.helpers import build_source

torch.set_num_threads(1)
state = process_state()
assert state.num_processes == int(sys.argv[1]), state.num_processes
images = torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(3))
pruner = SNPPruner.from_pretrained(build_source(sys.argv[4]))
statistics = pruner.calibrate(images, num_samples=int(sys.argv[2]), batch_size=8)
plan = pruner.plan(SNPConfig(qk_sparsity=0.4, v_sparsity=0.3, mlp_sparsity=0.5, hidden_sparsity=0.2))
plans = [None] * state.num_processes
if state.num_processes > 1:
    torch.distributed.all_gather_object(plans, plan.to_dict())
else:
    plans = [plan.to_dict()]
if state.is_main_process:
    assert all(other == plans[0] for other in plans)
    pruner.prune(plan)
    pruner.save_pretrained(sys.argv[3])
    sensitivities = [float(block["mlp_sensitivity"]) for block in statistics.blocks]
    print(json.dumps({"images": statistics.num_images, "plan": plans[0], "sensitivities": sensitivities}))
else:
    pruner.prune(plan)
    pruner.save_pretrained(sys.argv[3])
"""


def run_job(tmp_path, num_processes, num_samples, class_name):
    import subprocess

    script = tmp_path / "job.py"
    script.write_text(JOB)
    output = tmp_path / f"model-{num_processes}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    arguments = [str(num_processes), str(num_samples), output, class_name]
    process = subprocess.run(
        [sys.executable, *(launch if num_processes > 1 else []), script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("num_samples", "class_name"), [(70, "SwinForImageClassification"), (5, "DeiTForImageClassification")]
)
def test_processes_agree_with_one(tmp_path, num_samples, class_name):
    """5 images are one batch of 8: the second process has none, and takes part all the same."""
    alone = run_job(tmp_path, 1, num_samples, class_name)
    together = run_job(tmp_path, 2, num_samples, class_name)
    assert alone["images"] == together["images"] == num_samples
    assert alone["plan"] == together["plan"]
    assert alone["sensitivities"] == pytest.approx(together["sensitivities"])
    weights = [(tmp_path / f"model-{count}" / "model.safetensors").read_bytes() for count in (1, 2)]
    assert weights[0] == weights[1]


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
    with pytest.raises(ValueError, match=r"format_version of the statistics in .* must be 1, got 0. Calibrate again"):
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

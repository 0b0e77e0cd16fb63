"""Files from outside that somebody changed, by seed: they load, or a clear error says which; no memory, no code.

500 of every file of both architectures are slow; a few run always. They run in a process of their own, whose memory
has an end, so that what ends it without a word is a test that fails, and names the seed.
"""

import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import DeiTImageProcessorPil

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands.errors import is_for_the_user
from optimum_snp.exporting.exported import ExportedModel
from tests.faults.children import memory, run_in_child
from tests.faults.mutations import mutate
from tests.helpers import build_source


MOST_MEMORY = 200_000_000
STATISTICS = "statistics.safetensors"
FILES = [
    "config.json",
    "model.safetensors",
    "pruning_plan.json",
    "snp_measurements.json",
    "preprocessor_config.json",
    "snp_config.json",
    STATISTICS,
    "snp_export.json",
]
EXPORT = (
    '{"format": "onnx", "dtype": "fp32", "file": "model.onnx", "opset": 18, "input_shape": [3, 32, 32], "outputs": '
    '["logits"], "versions": {"torch": "2"}, "check": {"num_images": 3, "largest_difference": 0.0, "relative_error": '
    '0.0, "top1_agreement": 1.0}}'
)

# What runs code that a file could name.
_RUNNING = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"}
_executed: list[str] = []
_watching = False


def _watch(event, arguments):
    if _watching and event in _RUNNING:
        _executed.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@pytest.fixture(scope="module", params=["ViTForImageClassification", "SwinForImageClassification"])
def saved(request, tmp_path_factory):
    """A pruned model with everything beside it, its statistics, and the description of an export."""
    folder = tmp_path_factory.mktemp("fuzzed") / "model"
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    processor = DeiTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pruner = SNPPruner(build_source(request.param), processor)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=images)
    pruner.evaluate([(image, index % 5) for index, image in enumerate(images)], dataset_name="noise")
    pruner.measure_latency(num_runs=1)
    pruner.prune(SNPConfig(method="snp", qk_sparsity=0.5), calibration_dataset=images)
    pruner.save_pretrained(folder)
    pruner.calibrate(images)
    pruner.statistics.save(folder / STATISTICS)
    (folder / "snp_export.json").write_text(EXPORT)
    return folder


def use(folder, name, output):
    """Does with the files of a model what a user does: loads and saves, and prints."""
    if name == "snp_export.json":
        ExportedModel.load(folder)
        return
    if name == "snp_config.json":
        SNPConfig.from_pretrained(folder)
        return
    pruner = SNPPruner.from_pretrained(folder)
    str(pruner.pruning_plan)
    if name == STATISTICS:
        pruner.load_statistics(folder / STATISTICS)
        pruner.plan(SNPConfig(mlp_sparsity=0.5))
    else:
        pruner.save_pretrained(output)


@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_files_that_somebody_changed(name, count, saved, tmp_path, without_matplotlib):
    without_matplotlib()  # pictures only take time here
    folder = shutil.copytree(saved, tmp_path / "model")
    content, output = (folder / name).read_bytes(), tmp_path / "out"

    def work(begin):
        global _watching
        told = 0
        for seed in range(count):
            begin(f"seed {seed}")
            (folder / name).write_bytes(mutate(content, random.Random(f"{name} {seed}")))
            shutil.rmtree(output, ignore_errors=True)
            Path("/proc/self/clear_refs").write_text("5")
            before, _watching = memory("VmRSS"), True
            try:
                use(folder, name, output)
            except Exception as error:
                told += 1
                assert is_for_the_user(error)
                assert str(error)
            finally:
                _watching = False
            assert memory("VmHWM") - before < MOST_MEMORY
            assert _executed == []
        assert told > count // 4  # else the changes would change nothing

    run_in_child(work, tmp_path / "report")

"""A torchvision that does not fit torch kills nothing."""

import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
QUIET = """
import os
from optimum_snp.loading import load_image_processor
os.mkdir("model")
open("model/config.json", "w").write('{"architectures": ["ViTForImageClassification"], "model_type": "vit"}')
open("model/preprocessor_config.json", "w").write('{"image_processor_type": "ViTImageProcessor"}')
print(type(load_image_processor("model")).__name__)
"""
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])  # before any other torchvision
import optimum_snp, optimum_snp.commands
from transformers import AutoImageProcessor, ViTForImageClassification
from optimum_snp.training.transforms import torchvision_transforms
print(torchvision_transforms(), "torchvision.ops" in sys.modules)
"""


def test_a_torchvision_that_does_not_load_goes_unused(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from . import ops\nraise RuntimeError('no operator torchvision::nms')")
    (package / "ops.py").touch()
    metadata = tmp_path / "torchvision-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert process.stdout.split() == ["None", "False"], process.stderr
    assert "torchvision is installed but does not fit the installed torch" in process.stderr


@pytest.mark.slow
def test_nobody_is_advised_to_install_what_is_not_needed(tmp_path):
    script = f"import sys\nsys.modules['torchvision'] = None\nsys.path.insert(0, {str(ROOT)!r})\n{QUIET}"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert process.stdout.strip() == "ViTImageProcessorPil", process.stderr
    assert "torchvision" not in process.stderr

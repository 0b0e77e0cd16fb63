"""A torchvision that does not fit torch kills nothing."""

import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
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

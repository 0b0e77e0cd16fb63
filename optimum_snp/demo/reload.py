"""Loading a saved model in a new process that cannot see this package, as a stranger would."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


# `None` in sys.modules makes every import of the package fail, also where it is installed. Without inference mode
# torch takes another attention kernel for Swin, since its bias could have a gradient, and the last digits differ.
_SCRIPT = """
import sys

sys.modules["optimum_snp"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

folder, inputs, outputs = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
with torch.inference_mode():
    logits = model(load_file(inputs)["pixel_values"]).logits
save_file({"logits": logits}, outputs)
"""


def logits_in_new_process(folder: str | Path, pixel_values: torch.Tensor) -> torch.Tensor:
    """The logits of a saved model, `[batch, num_labels]`, computed by a process without this package.

    Raises:
        RuntimeError: If the process fails; the message holds what it printed.
    """
    with tempfile.TemporaryDirectory() as exchange:
        inputs, outputs = f"{exchange}/inputs.safetensors", f"{exchange}/outputs.safetensors"
        save_file({"pixel_values": pixel_values.contiguous()}, inputs)
        process = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(Path(folder).absolute()), inputs, outputs],
            cwd=exchange,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise RuntimeError(f"{folder} does not load in a new process:\n{process.stderr}")
        return load_file(outputs)["logits"]

"""The optional packages of each extra. They are imported where they are used: everything else works without them."""

import importlib.util
from collections.abc import Sequence
from importlib import metadata


_TITLES = {"app": "The app", "onnx": "ONNX", "openvino": "OpenVINO", "timm": "A model of timm"}
# By the name of the extra, for an export its format. OpenVINO reads the graph that PyTorch exports as ONNX.
_PACKAGES = {
    "app": ("gradio", "matplotlib"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino", "nncf"),
    "timm": ("timm", "torchvision"),
}

# Experiment trackers that a Trainer reports to, by the names of their packages.
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")

# The format that each runtime reads.
FORMAT_OF_RUNTIME = {"onnxruntime": "onnx", "openvino": "openvino"}


def check_packages(extra: str) -> None:
    """Tells before any work whether models can be exported to a format and run, or read.

    Args:
        extra (`str`):
            `"app"`, `"onnx"`, `"openvino"` or `"timm"`.

    Raises:
        ImportError: If a package is missing; the message says how to get it.
    """
    missing = [name for name in _PACKAGES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{_TITLES[extra]} needs {', '.join(missing)}: pip install 'optimum-snp[{extra}]'.")


def check_trackers(names: Sequence[str]) -> None:
    """Tells before any work whether experiment trackers are installed.

    Args:
        names (`Sequence[str]`):
            Of `TRACKERS`.

    Raises:
        ImportError: If one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"Reports to {name} need its package: pip install {name}.")


def package_version(module: str) -> str:
    """The version of the package that a module came with; ONNX Runtime has several, such as onnxruntime-gpu."""
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:
        return metadata.version(metadata.packages_distributions()[module][0])

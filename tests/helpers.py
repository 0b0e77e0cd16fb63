"""Plain functions that tests share."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers


SOURCE_CLASSES = (
    "ViTModel",
    "ViTForImageClassification",
    "DeiTModel",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
)
SWIN_CLASSES = ("SwinModel", "SwinForImageClassification", "SwinBackbone")

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "patch_size": 8}
FAMILIES = {
    "ViT": (transformers.ViTConfig, SIZES),
    "DeiT": (transformers.DeiTConfig, SIZES),
    "Dinov2": (
        transformers.Dinov2Config,
        {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 2, "patch_size": 8},
    ),
    # 8 x 8 tokens, then 4 x 4: the windows fit neither, so that both stages pad.
    "Swin": (
        transformers.SwinConfig,
        {"embed_dim": 12, "depths": [2, 3], "num_heads": [1, 2], "window_size": 3, "patch_size": 4},
    ),
}


def build_source(class_name, **options):
    """A random model of transformers for images of 32 pixels, with 5 labels.

    ViT and DeiT: 3 blocks, 4 heads of 12, MLP 96, 17 or 18 tokens. Swin: 2 + 3 blocks, 1 and 2 heads of 12, MLP 48
    and 96, 64 and 16 tokens in windows of 9.
    """
    torch.manual_seed(0)
    config_class, sizes = next(family for name, family in FAMILIES.items() if class_name.startswith(name))
    settings = {
        **sizes,
        "image_size": 32,
        "initializer_range": 0.1,
        **({} if "id2label" in options else {"num_labels": 5}),
        **options,
    }
    model = getattr(transformers, class_name)(config_class(**settings)).eval()
    with torch.no_grad():  # biases, norms and tokens start as zeros and ones; a mix-up of theirs must not go unseen
        for parameter in model.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


# Its name before transformers 5.23.
CHECKPOINTING = (
    "activation_checkpointing"
    if hasattr(transformers.PreTrainedModel, "activation_checkpointing_enable")
    else "gradient_checkpointing"
)


def checkpoint_activations(model):
    """Lets a model compute activations anew in the backward pass, and checks that it does."""
    getattr(model, f"{CHECKPOINTING}_enable")()
    assert getattr(model, f"is_{CHECKPOINTING}")
    return model


def accuracy(model, images, labels):
    """Top-1 of a model on pixel values, computed directly."""
    with torch.inference_mode():
        return (model(images).logits.argmax(-1) == labels).float().mean().item()


def run_python(script, *arguments, python=sys.executable, **options):
    """Runs a script in a new process and returns what it printed; its failure fails the test."""
    process = subprocess.run(
        [str(python), "-c", script, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=options.pop("cwd", Path("/")),
        **options,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def torchrun(num_processes, *arguments, timeout=300, **environment):
    """Runs a script in so many processes, with one thread each; a job that hangs fails the test."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes),
         *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **environment},
    )  # fmt: skip

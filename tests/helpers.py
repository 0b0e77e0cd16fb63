"""Plain functions that tests share."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from optimum_snp.families import families, family_of_source
from optimum_snp.plan.sizes import Part
from optimum_snp.structure import input_shape, query_key_step, whole_parts


# What tests build of itself; timm's models come with packages of their own (tests/families/test_timm.py).
CLASSES = tuple(name for family in families() if family.title != "timm" for name in family.source_classes)
# Those with the names of layers, and one residual stream, that tests of a ViT know; and those of a Swin.
SOURCE_CLASSES = tuple(name for name in CLASSES if family_of_source(name).title in ("ViT", "DeiT"))
SWIN_CLASSES = tuple(name for name in CLASSES if family_of_source(name).title == "Swin")


def build_source(class_name, **options):
    """A random model of transformers for images of 32 pixels, with 5 labels: the example of its family.

    ViT and DeiT: 3 blocks, 4 heads of 12, MLP 96, 17 or 18 tokens. Swin: 2 + 3 blocks, 1 and 2 heads of 12, MLP 48
    and 96, 64 and 16 tokens in windows of 9.
    """
    torch.manual_seed(1)  # of what a test draws after it
    return family_of_source(class_name).example(class_name, **options)


def inputs_for(model, count, size=None):
    """Random images, of the configured size or another; or spectrograms, which have one size."""
    *channels, height, width = input_shape(model.config)
    sides = (size, size) if size and channels else (height, width)
    return torch.randn(count, *channels, *sides, generator=torch.Generator().manual_seed(0))


def random_sizes(dense, config, generator):
    """Sizes that the parts of a model may have, up to the `dense` ones, at random."""
    sizes = {}
    for part, size in dense.items():
        step = query_key_step(config) if part[0] is Part.QUERY_KEY else 1
        if part[0].share_name in whole_parts(config):
            step = size
        sizes[part] = step * int(torch.randint(1, size // step + 1, (), generator=generator))
    return sizes


def prunable(config, **shares):
    """Of shares to remove those of parts that can get smaller in a model of this config."""
    return {name: share for name, share in shares.items() if name not in whole_parts(config)}


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
    """Runs a script in so many processes, with one thread each; a job that hangs fails the test.

    Processes cannot share a GPU: where there are too few, all are on the CPU.
    """
    if torch.cuda.device_count() < num_processes:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes),
         *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **environment},
    )  # fmt: skip

"""Writes the example cards in model_cards/, one for each preset of the paper, with the card's own template.

    python scripts/preset_cards.py

Sizes, FLOPs and parameters are those that this library computes for models of these shapes, with random weights.
Accuracies and speed-ups are the paper's and say so. Nothing is measured here.
"""

import shutil
from pathlib import Path

import torch
from shapes import build_dense

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.file_names import CARD_NAME
from optimum_snp.planning.decide import make_plan
from optimum_snp.presets import PRESETS
from optimum_snp.publishing.card import write_card
from optimum_snp.record import Origin
from optimum_snp.scoring import Scores
from optimum_snp.structure import block_sizes, stream_widths


MODEL_CARDS = Path(__file__).parents[1] / "model_cards"

# arXiv 2404.11630: top-1 on ImageNet before and after, and how many times as fast on a Raspberry Pi 4 (ONNX), a
# Jetson (TensorRT), a Xeon (PyTorch) and an RTX 3090.
PAPER = {
    "deit-tiny-0.6g": (72.20, 70.29, (1.70, 1.54, 1.38, 1.05)),
    "deit-small-2.0g": (79.80, 78.52, (2.01, 2.18, 1.38, 1.40)),
    "deit-small-1.3g": (79.80, 73.32, (2.94, 3.10, 1.60, 1.71)),
    "deit-base-6.4g": (81.80, 79.63, (2.44, 2.21, 1.89, 2.07)),
}

INTRODUCTION = """\
# The preset {preset}

This is an example: the card of a model that was pruned with `SNPConfig.from_preset("{preset}", method="snp")`. There
are no weights here. Nobody has measured this model with this library.

## What the paper reports

These numbers are **the paper's** ([arXiv 2404.11630](https://arxiv.org/abs/2404.11630)), after 300 epochs of
fine-tuning on ImageNet.

| | dense | pruned |
|---|---:|---:|
| Top-1 accuracy, the paper's | {before:.2f}% | {after:.2f}% |
| Speed-up on Raspberry Pi 4, ONNX Runtime, the paper's | | {speed_ups[0]:.2f} |
| Speed-up on Jetson, TensorRT, the paper's | | {speed_ups[1]:.2f} |
| Speed-up on Xeon, PyTorch, the paper's | | {speed_ups[2]:.2f} |
| Speed-up on RTX 3090, the paper's | | {speed_ups[3]:.2f} |
"""


def main() -> None:
    """Writes one folder per preset, each with a card and its picture."""
    if missing := PRESETS.keys() ^ PAPER.keys():
        raise ValueError(f"The paper's numbers and the presets differ by {', '.join(sorted(missing))}.")
    for preset, (before, after, speed_ups) in PAPER.items():
        folder = MODEL_CARDS / preset
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        introduction = INTRODUCTION.format(preset=preset, before=before, after=after, speed_ups=speed_ups)
        write_card(folder, build_pruner(preset).record, previous=introduction)
        print(folder / CARD_NAME)


def build_pruner(preset: str) -> SNPPruner:
    """A model of the preset's shape with random weights, pruned to its sizes; which neurons stay plays no part."""
    name = "-".join(preset.split("-")[:2])
    source = build_dense(name)
    pruner = SNPPruner(source, origin=Origin(f"facebook/{name}-patch16-224", license={"license": "apache-2.0"}))
    blocks = block_sizes(pruner.model.config)
    scores = Scores(
        query_key=[torch.zeros(block["num_attention_heads"], block["qk_head_dim"]) for block in blocks],
        value=[torch.zeros(block["num_attention_heads"], block["v_head_dim"]) for block in blocks],
        mlp=[torch.zeros(block["intermediate_size"]) for block in blocks],
        widths=[torch.zeros(width) for width in stream_widths(pruner.model.config)],
    )
    pruner.prune(make_plan(pruner.model, scores, SNPConfig.from_preset(preset, method="snp")))
    return pruner


if __name__ == "__main__":
    main()

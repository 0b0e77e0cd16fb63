"""Accuracy of a small Swin V2 after pruning, without any training.

    python scripts/benchmark_swinv2.py --output swinv2

Trains a `Swinv2ForImageClassification` of the shape of the demo's Swin (32 px, patches of 2, windows of 4, three
stages of two blocks, widths 32, 64 and 128) by the demo's recipe on the 4,000 handwritten digits of the training part.
Calibration is on 64 of them without labels, the test on the 1,000 held-out digits: accuracy in per cent, and in
brackets the cross-entropy, which tells models apart whose accuracies differ by chance.

Rows prune values, MLPs or whole heads alone by a share, or all of them by a budget of FLOPs, in closed form and with
reconstruction in sequence. The dense model is kept in the output folder and used again.

Writes `swinv2.md` (the table, also printed) and `swinv2.json`.
"""

import logging
from typing import Any

from transformers import Swinv2Config, Swinv2ForImageClassification


logger = logging.getLogger("benchmark_swinv2")

METHODS = ("snp", "snp-refit", "projection")
HEADS_AND_BLOCKS = {"head_sparsity": "auto", "dropped_blocks": "auto"}
ROWS: dict[str, dict[str, Any]] = {
    "values \N{MINUS SIGN}50%": {"v_sparsity": 0.5},
    "MLP \N{MINUS SIGN}50%": {"mlp_sparsity": 0.5},
    "heads \N{MINUS SIGN}50%": {"head_sparsity": 0.5},
    "FLOPs \N{MINUS SIGN}25%": {"target_flops": 0.75},
    "FLOPs \N{MINUS SIGN}50%": {"target_flops": 0.5},
    "FLOPs \N{MINUS SIGN}50%, heads and blocks too": {"target_flops": 0.5, **HEADS_AND_BLOCKS},
}
PACKAGES = ("optimum-snp", "torch", "transformers", "mlxtend")


def build_model() -> Swinv2ForImageClassification:
    """An untrained Swin V2 of the shape of the demo's Swin."""
    names = {digit: str(digit) for digit in range(10)}
    config = Swinv2Config(
        image_size=32,
        patch_size=2,
        embed_dim=32,
        depths=[2, 2, 2],
        num_heads=[1, 2, 4],
        window_size=4,
        pretrained_window_sizes=[0, 0, 0],
        drop_path_rate=0.0,
        initializer_range=0.1,
        id2label=names,
        label2id={name: digit for digit, name in names.items()},
    )
    return Swinv2ForImageClassification(config)

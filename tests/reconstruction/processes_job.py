"""Prunes with reconstruction by however many processes: `torchrun tests/reconstruction/processes_job.py FOLDER`.

The statistics are read, so that all that is spread over the processes is the reconstruction, and what a budget tries
to choose heads and blocks.
"""

import json
import sys
from pathlib import Path

import torch

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import choose_images, model_fingerprint
from optimum_snp.processes import process_state
from optimum_snp.reconstruction import compensated_losses
from tests.helpers import build_source


CLASSES = ("ViTForImageClassification", "SwinForImageClassification")
IMAGES = torch.randn(70, 3, 32, 32, generator=torch.Generator().manual_seed(3))  # five batches, the last one short
CONFIG = SNPConfig(
    qk_sparsity=0.4, v_sparsity=0.3, mlp_sparsity=0.5, hidden_sparsity=0.2, num_calibration_samples=len(IMAGES)
)


def statistics_path(folder: Path, class_name: str) -> Path:
    return folder / f"{class_name}.safetensors"


def main(folder: Path) -> None:
    state = process_state()
    for class_name in CLASSES:
        pruner = SNPPruner(build_source(class_name))
        pruner.load_statistics(statistics_path(folder, class_name))
        pruned = pruner.prune(pruner.plan(CONFIG), calibration_dataset=IMAGES)
        found = folder / f"{class_name}-{state.process_index}-of-{state.num_processes}"
        pruner = SNPPruner(build_source(class_name))
        pruner.load_statistics(statistics_path(folder, class_name))
        pruner.calibration_images = choose_images(pruner.model, IMAGES, num_samples=len(IMAGES))
        plan = pruner.plan(SNPConfig(target_flops=0.4, dropped_blocks="auto", head_sparsity="auto"))
        losses = compensated_losses(pruner.model, pruner.calibration_images.batches())
        kept = [len(block.heads) for block in plan.blocks]
        fingerprint = model_fingerprint(pruned)
        found.write_text(json.dumps({"fingerprint": fingerprint, "losses": losses, "heads": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A folder with damaged images, read by however many processes: `torchrun tests/data/processes_job.py FOLDER OUTPUT`.

Every process writes what it found to `OUTPUT/RANK.json`; without torchrun a test calls `run`.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainingArguments

from optimum_snp import SNPPruner
from optimum_snp.processes import process_state
from optimum_snp.training import evaluate_accuracy
from tests.data import perfect


def run(folder, output):
    """Calibrates, evaluates and fine-tunes; images that cannot be read are left out."""
    pruner = SNPPruner(perfect.model(), perfect.processor())
    reading = {"skip_unreadable": True, "num_workers": 2}
    statistics = pruner.calibrate(folder, 12, batch_size=2, **reading)
    test = Path(folder) / "Test"
    evaluated = evaluate_accuracy(pruner.model, test, batch_size=2, image_processor=pruner.image_processor, **reading)
    args = TrainingArguments(
        output, use_cpu=True, dataloader_pin_memory=False, report_to="none", disable_tqdm=True, save_strategy="no",
        num_train_epochs=1, per_device_train_batch_size=4 // process_state().num_processes, learning_rate=1e-5,
    )  # fmt: skip
    trained = pruner.finetune(folder, args=args, **reading)
    return {
        "processes": process_state().num_processes,
        "calibrated": statistics.num_images,
        "cosines": statistics.blocks[0]["cosines"].flatten().tolist(),
        "evaluated": list(evaluated),
        "steps": trained.global_step,
        "names": pruner.model.config.id2label[3],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = run(*sys.argv[1:])
    Path(sys.argv[2], f"{process_state().process_index}.json").write_text(json.dumps(found))

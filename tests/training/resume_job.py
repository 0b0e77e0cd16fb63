"""A training that is killed, or resumed beside one without a break: `torchrun tests/training/resume_job.py FOLDER`.

With `KILL_AT_STEP` in the environment the last process is killed while the checkpoint of that step is written.
"""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.processes import process_state
from optimum_snp.training import build_trainer
from tests.helpers import build_source


class Augmented(torch.utils.data.Dataset):
    """Random images that all three generators change each time that they are read."""

    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        noise = torch.randn(3, 32, 32) + np.random.rand() + random.random()
        return self.images[index] + 0.1 * noise, index % 5


def train(output, resume_from_checkpoint=None, recipe=None, **options):
    """Twelve steps, five to an epoch, of a pruned model with dropout; gives it back with its plan."""
    args = TrainingArguments(
        output,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        max_steps=12,
        save_steps=2,
        eval_strategy="epoch",
        per_device_train_batch_size=4 // process_state().num_processes,
        learning_rate=1e-3,
        **options,
    )
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification", hidden_dropout_prob=0.1))
    pruner.prune(SNPConfig(qk_sparsity=0.5, reconstruction_copies=0), calibration_dataset=Augmented.images)
    plain = [(image, index % 5) for index, image in enumerate(Augmented.images)]
    pruner.finetune(Augmented(), plain, args, recipe=recipe, resume_from_checkpoint=resume_from_checkpoint)
    return pruner


def reading(num_workers):
    """The images of two epochs, as a Trainer reads them with so many workers."""
    trainer = build_trainer(
        SNPPruner(build_source("ViTForImageClassification")).model,
        TrainingArguments("unused", use_cpu=True, dataloader_pin_memory=False, report_to="none"),
        Augmented(),
    )
    loader = torch.utils.data.DataLoader(trainer.train_dataset, batch_size=4, num_workers=num_workers)
    images = []
    for epoch in range(2):
        trainer.train_dataset.set_epoch(epoch)
        images += [image for batch in loader for image in batch["pixel_values"]]
    return images


def kill_while_saving(step):
    """Lets this process die when the weights of that checkpoint are written, and the rest of it is not."""
    save_optimizer = Trainer._save_optimizer_and_scheduler

    def save_or_die(trainer, output_dir):
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save_optimizer(trainer, output_dir)

    Trainer._save_optimizer_and_scheduler = save_or_die


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, state = Path(sys.argv[1]), process_state()
    if "KILL_AT_STEP" in os.environ:
        if state.process_index == state.num_processes - 1:
            kill_while_saving(int(os.environ["KILL_AT_STEP"]))
        train(folder / "broken")
    else:
        for name, resume in (("broken", True), ("whole", None)):
            weights = train(folder / name, resume).model.state_dict()
            if state.is_main_process:
                save_file(weights, folder / f"{name}.safetensors")

"""One walk down the road by however many processes: `torchrun tests/distributed_job.py FOLDER`.

Every process writes what it found to `FOLDER/RANK.json`; without torchrun a test calls `run`.
"""

import contextlib
import json
import sys
from pathlib import Path
from unittest import mock

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback, TrainingArguments, set_seed

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import model_fingerprint
from optimum_snp.metrics.zero_shot import embed_images, evaluate_zero_shot
from optimum_snp.processes import process_state, run_on_main_process
from optimum_snp.training import evaluate_accuracy
from tests.helpers import build_source


IMAGES = torch.randn(80, 3, 32, 32, generator=torch.Generator().manual_seed(3))
PAIRS = [(image, index % 5) for index, image in enumerate(IMAGES)]
NUM_EVALUATED = 13  # leaves a rest on 2 and on 4 processes

SHARES = SNPConfig(qk_sparsity=0.4, v_sparsity=0.3, mlp_sparsity=0.5, hidden_sparsity=0.2, reconstruction_copies=1)


class Stream(torch.utils.data.IterableDataset):
    """Items without a length."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Losses(TrainerCallback):
    """Keeps what the Trainer logs."""

    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def calibrate_and_prune(class_name, num_samples):
    """Spread over the processes; 5 images are one batch, so that the others have none."""
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    statistics = pruner.calibrate(IMAGES, num_samples=num_samples, batch_size=8)
    plan = pruner.plan(SHARES)
    # Only the main process may solve for the weights.
    with contextlib.ExitStack() as stack:
        if not process_state().is_main_process:
            for work in ("optimum_snp.methods.method.Method.reshape", "optimum_snp.reconstruction.sequence.solve"):
                stack.enter_context(mock.patch(work, side_effect=AssertionError("solved by every process")))
        pruner.prune(plan)
    with torch.inference_mode():
        logits = pruner.model(IMAGES[:4]).logits
    return {
        "logits": logits.flatten().tolist(),
        "images": statistics.num_images,
        "plan": plan.to_dict(),
        "sensitivities": [float(block["mlp_sensitivity"]) for block in statistics.blocks],
        "weights": model_fingerprint(pruner.model),
    }


def plan_tokens():
    """Shares of tokens are tried out on models that all processes reconstruct, from batches of a size of their own."""
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification", num_hidden_layers=2))
    pruner.calibrate(IMAGES, num_samples=80, batch_size=8)
    return pruner.plan(SNPConfig(target_flops=0.6, token_sparsity="auto", reconstruction_copies=1)).to_dict()


def evaluate():
    """On a number of images that the processes cannot share evenly, with and without a length."""
    model = SNPPruner(build_source("ViTForImageClassification")).model
    kinds = {"dataset": PAIRS[:NUM_EVALUATED], "stream": Stream(PAIRS[:NUM_EVALUATED])}
    return {kind: evaluate_accuracy(model, dataset, batch_size=2) for kind, dataset in kinds.items()}


def evaluate_by_texts():
    """The same of a model of images and texts, with how many images this process ran through the model."""
    model = SNPPruner(build_source("CLIPModel")).model
    texts = torch.randn(5, model.config.projection_dim, generator=torch.Generator().manual_seed(4))
    found = {}
    for kind, dataset in (("dataset", PAIRS[:NUM_EVALUATED]), ("stream", Stream(PAIRS[:NUM_EVALUATED]))):
        with mock.patch("optimum_snp.metrics.zero_shot.embed_images", side_effect=embed_images) as embed:
            metrics, num_images = evaluate_zero_shot(model, dataset, list("abcde"), texts, batch_size=2)
        found[kind] = metrics, num_images, sum(len(call.args[1]) for call in embed.call_args_list)
    return found


def train(folder, **options):
    """Twelve steps of a pruned model, eight images a step whatever the number of processes."""
    args = TrainingArguments(
        folder,
        use_cpu=True,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        max_steps=12,
        logging_steps=1,
        save_steps=6,
        eval_strategy="steps",
        eval_steps=12,
        per_device_train_batch_size=8 // process_state().num_processes,
        learning_rate=1e-3,
        **options,
    )
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification"))
    pruner.prune(SHARES, calibration_dataset=IMAGES[:16])
    pruner.evaluate(PAIRS[:NUM_EVALUATED])  # must not keep the Trainer from averaging gradients over the processes
    if options.get("fsdp"):
        # Accelerate shards on accelerators only. Gloo can do it, so let it believe that these are some.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    log = Losses()
    set_seed(0)
    pruner.finetune(PAIRS, PAIRS[:NUM_EVALUATED], args, callbacks=[log])
    assert process_state().num_processes == args.world_size
    return {
        "losses": log.losses,
        "weights": model_fingerprint(pruner.model),
        "kind": type(pruner.model).__name__,
        "accuracy": pruner.evaluate(PAIRS[:NUM_EVALUATED]),
    }


def error_of(work):
    """What `work` raises, as text."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def run(folder):
    """What all processes can do, one or several."""
    return {
        "processes": process_state().num_processes,
        "swin": calibrate_and_prune("SwinForImageClassification", 70),
        "deit": calibrate_and_prune("DeiTForImageClassification", 5),
        "tokens": plan_tokens(),
        "evaluation": evaluate(),
        "zero_shot": evaluate_by_texts(),
        "training": train(f"{folder}/ddp"),
    }


def run_together(folder):
    """What only several can do."""
    rank = process_state().process_index
    unlike = SNPPruner(build_source("ViTForImageClassification"))
    with torch.no_grad():
        unlike.model.classifier.bias[0] += rank
    alike = SNPPruner(build_source("ViTForImageClassification"))
    return {
        "unlike": error_of(lambda: unlike.calibrate(IMAGES, num_samples=8)),
        "url": str(alike.push_to_hub("me/small")),
        "bad_token": error_of(lambda: alike.push_to_hub("me/small", token="hf_unknown")),
        "error": error_of(lambda: run_on_main_process(lambda: {}["missing"])),
        "fsdp": train(f"{folder}/fsdp", fsdp=True) if process_state().num_processes == 2 else None,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    output = Path(sys.argv[1])
    found = run(output) | run_together(output)
    (output / f"{process_state().process_index}.json").write_text(json.dumps(found))

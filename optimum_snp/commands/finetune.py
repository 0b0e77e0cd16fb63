"""Fine-tune a model, pruned or not, on labelled images with transformers' Trainer.

Example:
  optimum-cli snp finetune small --train-dataset my/images --epochs 20 --output small-finetuned
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import TrainingArguments

from ..processes import process_state
from ..pruner import SNPPruner
from ..publishing import check_push, check_save_directory
from .common import Result, add_dataset_arguments, add_model_argument, dataset_name, load_named_dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the fine-tuned model is saved")
    parser.add_argument("--push-to-hub", metavar="REPO_ID", help="also push it there, as `push` does")
    add_dataset_arguments(parser, "train-dataset", "labelled images to train on", required=True, split="train")
    add_dataset_arguments(parser, "eval-dataset", "labelled images to evaluate on", required=False, split="train")
    parser.add_argument("--image-column", metavar="NAME", help="column of images, where its type does not tell")
    parser.add_argument("--label-column", metavar="NAME", help="column of labels, where its type does not tell")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=float, default=3.0, metavar="N", help="default: %(default)s")
    training.add_argument("--batch-size", type=int, default=32, metavar="N", help="per device (default: %(default)s)")
    training.add_argument("--learning-rate", type=float, default=1e-4, metavar="X", help="default: %(default)s")
    training.add_argument("--weight-decay", type=float, default=0.05, metavar="X", help="default: %(default)s")
    training.add_argument("--seed", type=int, default=42, metavar="N", help="default: %(default)s")
    training.add_argument(
        "--training-arguments", metavar="FILE", help="JSON file with further fields of transformers.TrainingArguments"
    )
    training.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def run(args: argparse.Namespace) -> Result:
    """Trains, evaluates when there is a dataset for it, and saves."""
    output = check_save_directory(args.output)
    repo_id = check_push(args.push_to_hub) if args.push_to_hub else None
    training_arguments = TrainingArguments(
        **{
            # Beside the output, since saving replaces it as a whole.
            "output_dir": str(output.with_name(f"{output.name}-checkpoints")),
            "num_train_epochs": args.epochs,
            "per_device_train_batch_size": args.batch_size,
            "per_device_eval_batch_size": args.batch_size,
            "learning_rate": args.learning_rate,
            "weight_decay": args.weight_decay,
            "seed": args.seed,
            "lr_scheduler_type": "cosine",
            "save_strategy": "epoch",
            "save_total_limit": 1,
            "report_to": "none",
            "use_cpu": process_state().device.type == "cpu",
            "dataloader_pin_memory": torch.cuda.is_available(),
            **(json.loads(Path(args.training_arguments).read_text()) if args.training_arguments else {}),
        }
    )
    pruner = SNPPruner.from_pretrained(args.model)
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    train_dataset = load_named_dataset(args.train_dataset, args.train_dataset_split)
    eval_dataset = load_named_dataset(args.eval_dataset, args.eval_dataset_split) if args.eval_dataset else None
    trained = pruner.finetune(
        train_dataset, eval_dataset, training_arguments, resume_from_checkpoint=args.resume or None, **columns
    )
    result = {"output": args.output, "train_loss": trained.training_loss}
    if eval_dataset is not None:
        name = dataset_name(args.eval_dataset, args.eval_dataset_split)
        result |= pruner.evaluate(eval_dataset, batch_size=args.batch_size, dataset_name=name, **columns)
    pruner.save_pretrained(args.output)
    if repo_id:
        result["commit_url"] = str(pruner.push_to_hub(repo_id))
    lines = [f"train loss  {trained.training_loss:.4f}"]
    lines += [f"accuracy    {result['accuracy']:.2%}"] if "accuracy" in result else []
    lines.append(f"Saved in {args.output}")
    lines += [f"Pushed: {result['commit_url']}"] if repo_id else []
    return result, "\n".join(lines)

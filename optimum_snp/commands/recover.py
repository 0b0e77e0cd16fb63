"""Train a pruned model for minutes on unlabelled images, so that it comes closer to the model it was pruned from.

Example:
  optimum-cli snp recover small --teacher deit-small --images my/images --minutes 5 --output small-recovered
"""

import argparse
import dataclasses

from ..folders import check_space
from ..pruner import SNPPruner
from ..publishing import check_save, choose_layout
from .common import (
    Result,
    add_dataset_arguments,
    add_layout_argument,
    add_model_argument,
    add_output_argument,
    check_not_source,
    load_named_dataset,
    save_or_rescue,
)
from .numbers import count, positive, seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="the model that it was pruned from")
    add_output_argument(parser, "the model is saved")
    add_layout_argument(parser)
    add_dataset_arguments(parser, "images", "unlabelled images", required=True, split="train")
    parser.add_argument("--image-column", metavar="NAME", help="column of images, where its type does not tell")
    parser.add_argument(
        "--minutes", type=positive, default=5.0, metavar="X", help="of training (default: %(default)s)"
    )
    parser.add_argument(
        "--num-samples", type=count, default=1024, metavar="N", help="images to use (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=count, default=32, metavar="N", help="images per step and device (default: %(default)s)"
    )
    parser.add_argument(
        "--learning-rate",
        type=positive,
        metavar="X",
        help="relative to the size of each weight, instead of trial steps at several",
    )
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is precise enough")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint, or start as long as there is none"
    )


def run(args: argparse.Namespace) -> Result:
    """Recovers and saves."""
    check_not_source(args.output, args.model, args.teacher)
    output = check_save(args.output, overwrite=args.overwrite)
    pruner = SNPPruner.from_pretrained(args.model)
    layout = choose_layout(pruner.record, args.layout)
    check_space(args.output, 4 * pruner.model.get_memory_footprint())  # a checkpoint has the optimizer's state, too
    recovery = pruner.recover(
        load_named_dataset(args.images, args.images_split),
        args.minutes,
        num_samples=args.num_samples,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        teacher=args.teacher,
        # Beside the output, since saving replaces it as a whole.
        output_dir=output.with_name(f"{output.name}-checkpoints"),
        seed=args.seed,
        image_column=args.image_column,
        resume=args.resume,
        bf16=args.bf16,
    )
    save_or_rescue(pruner, args.output, overwrite=args.overwrite, layout=layout)
    lines = [f"loss       {recovery.loss_before:.4f} -> {recovery.loss_after:.4f} on held-back images"]
    if recovery.agreement_before is not None:
        lines.append(f"agreement  {recovery.agreement_before:.1%} -> {recovery.agreement_after:.1%}")
    lines.append(f"Saved in {args.output}")
    return {"output": args.output, **dataclasses.asdict(recovery)}, "\n".join(lines)

"""Show the whole road on real images that a package ships, without network.

Trains a small DeiT or Swin on handwritten digits, prunes it with SNP to half of its FLOPs, fine-tunes it, saves it,
loads it in a process that cannot see this package, and prints one table. Takes a few minutes on one core.
"""

import argparse

from ..demo import DENSE_MODELS, run_demo
from .common import Result
from .numbers import count, seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "--architecture", choices=DENSE_MODELS, default="deit", help="of the dense model (default: %(default)s)"
    )
    parser.add_argument(
        "--output", default="demo-output", metavar="FOLDER", help="where the models are saved (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the models of an earlier demo there")
    parser.add_argument(
        "--epochs", type=count, metavar="N", help="of the dense model (default: as many as take it to about 97 %%)"
    )
    parser.add_argument("--finetune-epochs", type=count, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="default: %(default)s")


def run(args: argparse.Namespace) -> Result:
    """Runs the demo and prints its table."""
    report = run_demo(
        args.output,
        args.architecture,
        epochs=args.epochs,
        finetune_epochs=args.finetune_epochs,
        seed=args.seed,
        overwrite=args.overwrite,
    )
    return report.to_dict(), str(report)

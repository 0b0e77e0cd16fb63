"""What scripts on the tasks of the real ViT are asked alike."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from prepare_real_vit import OUTPUT


def ground_parser(
    description: str, output: str, *, tasks: Sequence[str], default: Sequence[str]
) -> argparse.ArgumentParser:
    """A parser with `--ground`, `--output`, `--tasks`, `--device` and `--threads`.

    Args:
        description (`str`):
            Of the script.
        output (`str`):
            Where it writes, unless told otherwise.
        tasks (`Sequence[str]`), default (`Sequence[str]`):
            Those that it knows, and those that it takes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", type=Path, default=OUTPUT, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path(output), help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", default=list(default), choices=list(tasks))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where models are measured")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: %(default)s)")
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments; from then on torch has so many threads, and logs are shown."""
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    return args

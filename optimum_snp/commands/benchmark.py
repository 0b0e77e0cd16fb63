"""Measure the latency of models side by side, all in turn.

A dense checkpoint runs in transformers' own code, a pruned one in ours, and the folder of an export on its runtime.

Example:
  optimum-cli snp benchmark deit-small small small-int8 --backends eager openvino --batch-sizes 1 8 --threads 1 2
"""

import argparse
import logging

from ..benchmarking.benchmark import benchmark
from ..benchmarking.contender import PRECISIONS
from ..benchmarking.plot import plot_benchmark
from ..configuration import LATENCY_BACKENDS
from .common import Result, check_plot, short_names
from .numbers import count


logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="folders of saved or exported models, Hub ids or short names"
    )
    parser.add_argument("--backends", nargs="+", choices=LATENCY_BACKENDS, default=["eager"], help="default: eager")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=["fp32"], help="what is computed in (default: fp32)"
    )
    parser.add_argument("--batch-sizes", nargs="+", type=count, default=[1, 8], metavar="N", help="default: 1 8")
    parser.add_argument("--threads", nargs="+", type=count, default=[1], metavar="N", help="of the CPU (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU such as cuda (default: %(default)s)")
    parser.add_argument(
        "--num-runs", type=count, default=30, metavar="N", help="timed passes of each (default: %(default)s)"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, which takes a while")
    parser.add_argument("--plot", metavar="FILE", help="also draw a picture, such as speed.png")


def run(args: argparse.Namespace) -> Result:
    """Measures and prints a table."""
    if args.plot:
        check_plot(args.plot)
    report = benchmark(
        short_names(args.models),
        backends=args.backends,
        precisions=args.precisions,
        batch_sizes=args.batch_sizes,
        threads=args.threads,
        device=args.device,
        num_runs=args.num_runs,
        memory=not args.no_memory,
    )
    if args.plot:
        try:
            plot_benchmark(report, args.plot)
        except (OSError, ValueError) as error:  # the figures are worth more than the picture
            logger.error(f"The picture could not be written to {args.plot}: {error}")
    return report.to_dict(), str(report)

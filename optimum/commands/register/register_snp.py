"""Adds `optimum-cli snp`.

Every call of optimum-cli imports this file, so it imports neither torch nor our package: what the commands are and
which version this is can be told at once, and [`optimum_snp.commands`] is imported only when one of them is asked for.
"""

import argparse
import importlib.metadata

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


# The commands, each with the first line of its module in `optimum_snp.commands`.
COMMANDS = {
    "prune": "Prune a Vision Transformer with unlabelled images.",
    "recover": "Train a pruned model for minutes on unlabelled images, so that it comes closer to the model it was "
    "pruned from.",
    "finetune": "Fine-tune a model, pruned or not, on labelled images with transformers' Trainer.",
    "evaluate": "Measure top-1 and top-5 accuracy on labelled images, or the metrics of another problem_type.",
    "benchmark": "Measure the latency of models side by side, all in turn.",
    "compare": "Compare models: accuracy, agreement with the first one, divergence, costs and latency.",
    "export": "Export a model for ONNX Runtime or OpenVINO, checked against PyTorch before anything is written.",
    "report": "Write a report on models: one HTML page with tables and pictures, and the pictures as PNG files.",
    "push": "Push a saved model with its card to the Hub, in one commit.",
    "demo": "Show the whole road on real images that a package ships, without network.",
    "families": "List the families of models that can be pruned: their classes, what is pruned in each, and what not.",
    "app": "Open an app in the browser: pictures, a slider for the budget, and the model before and after.",
}
_PACKAGES = ("optimum-snp", "optimum", "transformers", "torch")


class _Versions(argparse.Action):
    """Prints the versions that a bug report needs, without importing anything."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES))
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of everything up to the name of the command."""
    parser = argparse.ArgumentParser(
        prog="optimum-cli snp",
        description="Make Vision Transformers smaller with Structured Neuron-level Pruning (SNP).",
        epilog="`optimum-cli snp COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action=_Versions, nargs=0, help="print the versions of what is installed")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, add_help=False)
        command.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def _main(arguments: list[str]) -> None:
    build_parser().parse_known_args(arguments[:1])  # a mistyped command is told at once

    from optimum_snp.commands import main

    main(arguments)


class SNPCommand(BaseOptimumCLICommand):
    """Hands everything after `optimum-cli snp` on."""

    COMMAND = CommandInfo(name="snp", help="Make Vision Transformers smaller with Structured Neuron-level Pruning.")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Takes all further arguments as they are."""
        parser.print_help = lambda file=None: build_parser().print_help(file)
        parser.add_argument("--version", action=_Versions, nargs=0)
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def run(self) -> None:
        """Runs the command."""
        _main(self.args.arguments)


REGISTER_COMMANDS = [SNPCommand]

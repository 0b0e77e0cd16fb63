"""Adds `optimum-cli snp`.

Every call of optimum-cli imports this file, so it imports neither torch nor our package: the commands of `snp` are
parsed by [`optimum_snp.commands`] only when one of them is asked for.
"""

import argparse

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


def _main(arguments: list[str]) -> None:
    from optimum_snp.commands import main

    main(arguments)


class SNPCommand(BaseOptimumCLICommand):
    """Hands everything after `optimum-cli snp` on."""

    COMMAND = CommandInfo(name="snp", help="Make Vision Transformers smaller with Structured Neuron-level Pruning.")

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Takes all further arguments as they are."""
        parser.print_help = lambda file=None: _main(["--help"])
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def run(self) -> None:
        """Runs the command."""
        _main(self.args.arguments)


REGISTER_COMMANDS = [SNPCommand]

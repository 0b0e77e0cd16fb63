"""`optimum-cli snp …`: one file per command, each with `add_arguments` and `run`."""

import argparse
import contextlib
import json
import logging
import signal
import sys
from types import ModuleType

from transformers.utils import logging as transformers_logging

from ..folders import ending_cleanly
from ..processes import process_state
from . import app, benchmark, compare, demo, evaluate, export, families, finetune, prune, push, recover, report
from .errors import in_options, is_for_the_user


COMMANDS: dict[str, ModuleType] = {
    "prune": prune,
    "recover": recover,
    "finetune": finetune,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "compare": compare,
    "export": export,
    "report": report,
    "push": push,
    "families": families,
    "demo": demo,
    "app": app,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="optimum-cli snp",
        description="Make Vision Transformers smaller with Structured Neuron-level Pruning (SNP).",
        epilog="`optimum-cli snp COMMAND --help` explains a command.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        description = (command.__doc__ or "").strip()
        subparser = subparsers.add_parser(
            name,
            help=description.splitlines()[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.add_argument("--json", action="store_true", help="print the result as JSON, for machines")
        subparser.add_argument("--debug", action="store_true", help="show where an error arose")
        flags = {action.dest: action.option_strings[0] for action in subparser._actions if action.option_strings}
        subparser.set_defaults(run=command.run, flags=flags)
    return parser


def main(arguments: list[str]) -> None:
    """Parses and runs one command; what is for the user to mend ends it with a message and exit status 1."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for name in ("optimum_snp.data", "optimum_snp.demo"):  # say what was read, and how far it is
        logging.getLogger(name).setLevel(logging.INFO)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()  # bars are for people who watch
    try:
        # A Trainer prints; stdout is for the result alone. SIGTERM clears away what is half done.
        with contextlib.redirect_stdout(sys.stderr), ending_cleanly():
            result, text = args.run(args)
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("Interrupted.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if args.debug or not is_for_the_user(error):
            raise
        sys.exit(f"error: {in_options(str(error), args.flags)}")
    if process_state().is_main_process:
        print(json.dumps(result) if args.json else text)

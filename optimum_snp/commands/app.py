"""Open an app in the browser: pictures, a slider for the budget, and the model before and after.

Needs Gradio: pip install 'optimum-snp[app]'.

Example:
  optimum-cli snp app --model my/classifier --port 7860
"""

import argparse

from .common import Result
from .numbers import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--model", default="deit-small", metavar="MODEL", help="at the start (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="whom it listens to (default: this machine alone)")
    parser.add_argument("--port", type=count, metavar="N", help="default: the first free one from 7860")
    parser.add_argument(
        "--no-folders", action="store_true", help="visitors may not name folders of this machine; for the public"
    )


def run(args: argparse.Namespace) -> Result:
    """Serves until it is interrupted."""
    from ..app import build_page

    page = build_page(model=args.model, folders=not args.no_folders)
    page.launch(server_name=args.host, server_port=args.port, show_error=True)
    return {"host": args.host, "port": args.port}, "The app has ended."

"""Push a saved model with its card to the Hub, in one commit.

What people wrote into the card of the repository stays; where there is none, what you wrote into that of the folder.

Example:
  optimum-cli snp push small-finetuned me/deit-small-snp --private
"""

import argparse
from pathlib import Path

from ..file_names import CARD_NAME
from ..pruner import SNPPruner
from ..publishing import check_push, push_model
from .common import Result, add_layout_argument, add_model_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_model_argument(parser)
    parser.add_argument("repo_id", metavar="REPO_ID", help="namespace/name, or name for one of yours; made if need be")
    parser.add_argument("--private", action="store_true", help="if the repository has to be made, make it private")
    parser.add_argument("--revision", metavar="BRANCH", help="made if need be (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--commit-message", metavar="TEXT", help="default: Upload model")
    parser.add_argument("--tag", action="append", metavar="TAG", help="further tag of the card; may be repeated")
    add_layout_argument(parser)


def run(args: argparse.Namespace) -> Result:
    """Pushes and prints where to."""
    target = {"private": args.private or None, "revision": args.revision, "create_pr": args.create_pr}
    repo_id = check_push(args.repo_id, **target)
    card = Path(args.model, CARD_NAME)
    record = SNPPruner.from_pretrained(args.model).record
    commit = push_model(
        record,
        repo_id,
        commit_message=args.commit_message,
        tags=args.tag,
        layout=args.layout,
        card=card.read_text(encoding="utf-8") if card.is_file() else None,
        **target,
    )
    result = {"repo_id": repo_id, "commit_url": commit.commit_url, "pull_request_url": commit.pr_url}
    return result, f"Pushed: {commit.pr_url or commit.commit_url}"

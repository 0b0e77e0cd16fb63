"""List the families of models that can be pruned: their classes, what is pruned in each, and what not.

Example:
  optimum-cli snp families
"""

import argparse

from ..families import family_facts, family_table
from ..families.family import PARTS
from .common import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


def run(args: argparse.Namespace) -> Result:
    """Tells what the registry knows, with the reasons for what it refuses."""
    facts = family_facts()
    refused = [f"{name}*: {reason}" for family in facts for name, reason in family["refused"].items()]
    lines = [
        family_table(),
        "",
        f"All: {', '.join(PARTS)}. A plain checkpoint (layout='native') loads in that version without code of ours.",
        "",
        "Refused:",
        *refused,
    ]
    return {"families": facts}, "\n".join(lines)

"""What the registry knows, as a table for people and as values for machines."""

from typing import Any

from .family import PARTS, Family
from .registry import families


_HEADINGS = ("family", "classes", "what is pruned", "what is not", "plain checkpoints", "short names")


def family_facts() -> list[dict[str, Any]]:
    """One dict per family: its classes, what is pruned in them and what not, and which classes are refused and why."""
    return [
        {
            "family": family.title,
            "classes": list(family.source_classes),
            "pruned": list(family.parts),
            "not_pruned": family.limits,
            "plain_checkpoint_from_transformers": family.native_version,
            "short_names": family.short_names,
            "refused": family.refused,
        }
        for family in families()
    ]


def family_table() -> str:
    """The table of all families, in Markdown."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *map(_row, families())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(family: Family) -> tuple[str, ...]:
    return (
        family.title,
        ", ".join(f"`{name}`" for name in family.source_classes),
        "all" if family.parts == PARTS else ", ".join(family.parts),
        family.limits,
        f"transformers ≥ {family.native_version}" if family.native_version else "",
        ", ".join(f"`{name}`" for name in family.short_names),
    )

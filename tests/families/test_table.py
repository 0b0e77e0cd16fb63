"""The table of families: the registry's, printed by a command and shown in the README."""

import json
from pathlib import Path

from optimum_snp.commands import main
from optimum_snp.families import families, family_facts, family_table


README = Path(__file__).parents[2] / "README.md"


def test_the_readme_shows_the_registry():
    """When it fails: put what `optimum-cli snp families` prints in the place of the table."""
    assert family_table() in README.read_text(encoding="utf-8")


def test_every_family_has_a_row_with_all_of_its_classes():
    rows = family_table().splitlines()[2:]
    assert len(rows) == len(list(families()))
    for family, row in zip(families(), rows, strict=True):
        assert row.startswith(f"| {family.title} |")
        assert all(f"`{name}`" in row for name in family.source_classes)
        assert row.count("|") == 7


def test_the_command_prints_the_table_and_what_is_refused(capsys):
    main(["families"])
    printed = capsys.readouterr().out
    assert family_table() in printed
    for family in families():
        for beginning, reason in family.refused.items():
            assert f"{beginning}*: {reason}" in printed
    main(["families", "--json"])
    assert json.loads(capsys.readouterr().out) == {"families": family_facts()}

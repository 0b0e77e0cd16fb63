"""The page on data names tests that exist."""

import re
from pathlib import Path


ROOT = Path(__file__).parents[2]


def test_every_row_of_the_table_is_a_test():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [line.split("|")[-2] for line in page.splitlines() if line.startswith("|") and "test_" in line]
    assert len(rows) > 30
    for row in rows:
        file = None
        for path, name in re.findall(r"`(?:([\w/]+\.py)(?:::)?)?(\w*)`", row):
            if path:
                file = ROOT / (path if path.startswith("tests/") else f"tests/data/{path}")
            assert file.is_file(), row
            assert not name or f"def {name}(" in file.read_text(encoding="utf-8"), f"{name} is none of {file.name}"

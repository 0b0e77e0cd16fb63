"""What is told about the package in several places is told alike."""

import re
from pathlib import Path

from optimum_snp import __version__


ROOT = Path(__file__).parents[1]


def test_the_citation_has_the_version():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1] == __version__


def test_hooks_and_make_use_the_same_tools():
    pinned = dict(re.findall(r'"(ruff|mypy)==([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    made = dict(re.findall(r'"(ruff|mypy)==([\d.]+)"', (ROOT / "Makefile").read_text()))
    assert made == pinned
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    found = dict(re.findall(r"(?:/ruff-pre-commit|/mirrors-(mypy))\n    rev: v([\d.]+)", hooks))
    assert {name or "ruff": version for name, version in found.items()} == pinned

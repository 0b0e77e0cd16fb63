"""The registry is all that knows of families."""

import ast
from pathlib import Path

import pytest

import optimum_snp
from optimum_snp.families import Family, families, register_family, registry, source_classes


PACKAGE = Path(optimum_snp.__file__).parent
# The demo trains two models of its own, a DeiT and a Swin; models of images and texts derive from transformers'.
EXEMPT = ("families/", "demo/", "models/snp_vit/modeling_snp_two_towers.py")


def test_nothing_else_names_their_classes():
    """As a name, an attribute or a string, docstrings and messages aside."""
    classes = set(source_classes())
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix().startswith(EXEMPT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = {getattr(node, field, None) for field in ("id", "attr", "name", "value")}
            assert not {name for name in named if isinstance(name, str)} & classes, f"{path}: {node.lineno}"


def test_what_is_taken_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "_FAMILIES", list(registry._FAMILIES))
    vit = next(families())
    with pytest.raises(ValueError, match="source_classes of ViT: ViTModel, ViTForImageClassification belong to ViT"):
        register_family(type(vit)())
    with pytest.raises(TypeError, match="register_family takes a Family, got ABCMeta"):
        register_family(Family)

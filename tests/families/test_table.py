"""The table of families: the registry's, printed by a command and shown in the README."""

import json
from pathlib import Path

import pytest
import transformers

from optimum_snp.commands import main
from optimum_snp.families import check_supported, families, family_facts, family_table, source_classes


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


@pytest.mark.parametrize(
    "class_name",
    [
        "YolosForObjectDetection",
        "ViTMAEForPreTraining",
        "CLIPTextModelWithProjection",
        "MetaClip2TextModel",
        "SiglipTextModel",
        "Siglip2Model",
        "Swinv2ForMaskedImageModeling",
        "CLIPSegModel",
        "ResNetForImageClassification",
    ],
)
def test_every_other_class_is_refused_with_what_is_nearest_to_it(class_name):
    assert hasattr(transformers, class_name)
    with pytest.raises(ValueError, match=f"{class_name} cannot be pruned") as caught:
        check_supported(class_name)
    nearest = str(caught.value).split("earest")[-1]
    assert any(name in nearest for name in (*source_classes(), "Swin models"))

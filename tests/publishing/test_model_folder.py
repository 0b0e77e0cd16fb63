"""Nothing is replaced that nobody asked to replace, and no model that is worth nothing is saved."""

import pytest
import torch

from optimum_snp import SNPPruner
from optimum_snp.publishing import check_save


@pytest.fixture
def saved(source, tmp_path):
    SNPPruner.from_pretrained(source).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_replaced_only_where_that_is_asked_for(source, saved):
    before = contents(saved)
    pruner = SNPPruner.from_pretrained(source)
    pruner.model.classifier.bias.data += 1
    with pytest.raises(ValueError, match=r"holds what was saved there before.*overwrite=True .*--overwrite"):
        pruner.save_pretrained(saved)
    assert contents(saved) == before
    pruner.save_pretrained(saved, overwrite=True)
    again = SNPPruner.from_pretrained(saved)
    assert torch.equal(again.model.classifier.bias, pruner.model.classifier.bias)


def test_a_folder_of_others_is_never_replaced(source, tmp_path):
    source.save_pretrained(tmp_path / "dense")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    for name in ("dense", "mine"):
        before = contents(tmp_path / name)
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="holds files that this library did not write"):
                SNPPruner.from_pretrained(source).save_pretrained(tmp_path / name, overwrite=overwrite)
        assert contents(tmp_path / name) == before


def test_an_empty_folder_is_as_good_as_none(source, tmp_path):
    (tmp_path / "empty").mkdir()
    SNPPruner.from_pretrained(source).save_pretrained(tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value, source, saved):
    before = contents(saved)
    pruner = SNPPruner.from_pretrained(source)
    pruner.model.classifier.bias.data[1] = value
    with pytest.raises(ValueError, match=r"The weight classifier.bias has values that are NaN or infinite"):
        pruner.save_pretrained(saved, overwrite=True)
    assert contents(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_weights_that_are_not_finite_are_not_pushed(source, hub):
    pruner = SNPPruner.from_pretrained(source)
    pruner.model.classifier.bias.data[1] = float("nan")
    with pytest.raises(ValueError, match=r"The weight classifier.bias has values that are NaN"):
        pruner.push_to_hub("me/model")
    assert hub.repos == {}


def test_a_card_that_cannot_be_kept_is_told_before_any_work(source, saved):
    (saved / "README.md").write_bytes("Über mich".encode("latin-1"))
    with pytest.raises(ValueError, match=r"README.md is no text in UTF-8, so that it cannot be kept"):
        check_save(saved, overwrite=True)
    with pytest.raises(ValueError, match=r"README.md is no text in UTF-8"):
        SNPPruner.from_pretrained(source).save_pretrained(saved, overwrite=True)
    assert (saved / "README.md").read_bytes() == "Über mich".encode("latin-1")

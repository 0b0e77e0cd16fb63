"""What a user is told who has no timm, or one that cannot be imported, before anything is downloaded or built."""

import builtins
import importlib.util
import json

import pytest

from optimum_snp import SNPPruner
from optimum_snp.families import check_supported, class_name_of


CONFIG = {"architecture": "deit_small_patch16_224", "num_classes": 1000, "pretrained_cfg": {"tag": "fb_in1k"}}


@pytest.fixture
def repo(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_the_class_follows_from_a_config_of_timm():
    assert class_name_of(CONFIG) == "TimmWrapperForImageClassification"
    assert class_name_of({**CONFIG, "num_classes": 0}) == "TimmWrapperModel"
    assert class_name_of({**CONFIG, "architectures": ["TimmWrapperModel"]}) == "TimmWrapperModel"
    assert class_name_of({"model_type": "vit"}) is None


def test_without_timm(repo, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find_spec(name))
    message = r"A model of timm needs timm.*: pip install 'optimum-snp\[timm\]'"
    with pytest.raises(ImportError, match=message):
        SNPPruner.from_pretrained(repo)
    with pytest.raises(ImportError, match=message):
        check_supported("TimmWrapperModel")


def test_with_a_torchvision_of_another_torch(repo, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "timm":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"Install the torchvision that belongs to torch .*torchvision::nms"):
        SNPPruner.from_pretrained(repo)

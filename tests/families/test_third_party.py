"""A family from outside the package, that of docs/families.md: registered, pruned, saved, loaded, and gone again."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import family_of_source, registry
from optimum_snp.loading import resolve_name
from optimum_snp.methods import METHODS
from optimum_snp.models import SNPViTForImageClassification
from optimum_snp.structure.costs import count_macs
from tests.families.cases import IMAGES
from tests.helpers import run_python


DOCS = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """The module of the docs, run in a folder of its own; its family is forgotten at the end."""
    monkeypatch.setattr(registry, "_FAMILIES", list(registry._FAMILIES))
    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", dict(CONFIG_MAPPING._extra_content))
    monkeypatch.chdir(tmp_path)
    chapter = DOCS.read_text().partition("## One of your own")[2]
    blocks = re.findall(r"```python\n(.*?)```", chapter, flags=re.DOTALL)
    (tmp_path / "plain_vit.py").write_text("\n".join(blocks))
    spec = importlib.util.spec_from_file_location("plain_vit", tmp_path / "plain_vit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_road_of_the_docs(plain, tmp_path):
    assert plain.pruner.pruning_plan.macs_after <= 0.5 * plain.pruner.pruning_plan.macs_before
    loaded = SNPPruner.from_pretrained(tmp_path / "plain-small")
    with torch.inference_mode():
        expected = plain.pruner.model(IMAGES).logits
        assert torch.equal(loaded.model(IMAGES).logits, expected)
        anywhere = AutoModelForImageClassification.from_pretrained(tmp_path / "plain-small", trust_remote_code=True)
        assert torch.equal(anywhere.eval()(IMAGES).logits, expected)
    card = ModelCard.load(tmp_path / "plain-small" / "README.md")
    assert card.data.tags[-1] == "plainvit"
    assert "# Pruned PlainViT" in card.text
    assert resolve_name("plain-vit-small") == "me/plain-vit-small"


@pytest.mark.parametrize("method", METHODS)
def test_its_models_are_converted_exactly_and_pruned(plain, method):
    source = family_of_source("PlainViTForImageClassification").example("PlainViTForImageClassification", depth=2)
    pruner = SNPPruner.from_pretrained(source)
    with torch.inference_mode():
        torch.testing.assert_close(pruner.model(IMAGES).logits, source(IMAGES).logits, rtol=1e-5, atol=1e-5)
    dense = count_macs(pruner.model)
    pruner.prune(SNPConfig(method=method, mlp_sparsity=0.5, hidden_sparsity=0.25), calibration_dataset=IMAGES)
    assert type(pruner.model) is SNPViTForImageClassification
    assert count_macs(pruner.model) < 0.7 * dense


def test_it_is_forgotten():
    """The tests before registered it."""
    assert family_of_source("PlainViTForImageClassification") is None
    with pytest.raises(ValueError, match="plain_vit"):
        AutoConfig.for_model("plain_vit")


def test_its_checkpoints_load_where_nobody_knows_it(plain, tmp_path):
    script = """
import sys
from optimum_snp import SNPPruner
pruner = SNPPruner.from_pretrained(sys.argv[1])
print(type(pruner.model).__name__, pruner.pruning_plan.config.target_flops)
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    said = run_python(script, tmp_path / "plain-small", env=environment, cwd=tmp_path / "plain-small")
    assert said.split() == ["SNPViTForImageClassification", "0.5"]

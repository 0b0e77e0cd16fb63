"""Names resolve, sources load from folders and from a Hub-compatible server, and bad ones are refused."""

import json
import os

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import LevitConfig, LevitModel

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import model_fingerprint
from optimum_snp.families import short_names
from optimum_snp.file_names import EXPORT_NAME
from optimum_snp.loading import load_source, resolve_name
from tests.helpers import build_source, run_python
from tests.hub_server import HubServer


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        ("deit-small", "facebook/deit-small-patch16-224"),
        ("facebook/deit-small", "facebook/deit-small-patch16-224"),
        ("vit-base", "google/vit-base-patch16-224"),
        ("swin-tiny", "microsoft/swin-tiny-patch4-window7-224"),
        ("microsoft/swin-base", "microsoft/swin-base-patch4-window7-224"),
        ("google/vit-base", "google/vit-base-patch16-224"),
        ("me/deit-small", "me/deit-small"),
        ("facebook/deit-small-patch16-224", "facebook/deit-small-patch16-224"),
    ],
)
def test_short_names(name, full_name):
    assert resolve_name(name) == full_name


def test_local_folder_comes_before_a_short_name(tmp_path, monkeypatch):
    (tmp_path / "deit-small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_name("deit-small") == "deit-small"
    assert resolve_name("deit-tiny") == short_names()["deit-tiny"]


def test_unsupported_architecture_is_refused_from_its_config(tmp_path):
    config = LevitConfig(hidden_sizes=[8, 8, 8], num_attention_heads=[1, 1, 1], depths=[1, 1, 1], key_dim=[8, 8, 8])
    LevitModel(config).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # not even looked at
    with pytest.raises(
        ValueError,
        match=r"LevitModel cannot be pruned. Supported are ViTModel.*nearest of these by its name is BeitModel",
    ):
        SNPPruner.from_pretrained(tmp_path)


def test_config_without_architecture(tmp_path):
    build_source("ViTModel").config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with pytest.raises(ValueError, match="A model without `architectures` in its config cannot be pruned"):
        SNPPruner.from_pretrained(tmp_path)


def test_subfolder(tmp_path):
    build_source("ViTModel").save_pretrained(tmp_path / "inner")
    assert type(load_source(tmp_path, subfolder="inner")) is transformers.ViTModel


def test_folder_without_config(tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json; name the folder of a saved model, or a Hub id"):
        SNPPruner.from_pretrained(tmp_path)


def test_contradicting_blocks_are_refused(source, pixel_values, tmp_path):
    SNPPruner.from_pretrained(source).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["block_configs"][1]["v_head_dim"] = 0
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"block_configs\[1\].v_head_dim must be a positive integer, got 0"):
        SNPPruner.from_pretrained(tmp_path / "model")


def test_folder_without_image_processor_warns(source, tmp_path, caplog):
    source.save_pretrained(tmp_path)
    assert SNPPruner.from_pretrained(tmp_path).image_processor is None
    assert "has no image processor that can be read" in caplog.text


HUB_SCRIPT = """
import sys, torch
from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import model_fingerprint

images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
for name in ("deit-small", "facebook/deit-small", "facebook/deit-small-patch16-224"):
    pruner = SNPPruner.from_pretrained(name)
    assert pruner.image_processor is not None
    print("loaded", pruner.model.config._name_or_path, model_fingerprint(pruner.model))
pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=images)
pruner.save_pretrained(sys.argv[1])
"""


def test_hub_id_and_short_names_over_http(tmp_path, image_processor):
    repo = tmp_path / "hub" / "facebook" / "deit-small-patch16-224"
    source = build_source("ViTForImageClassification")
    source.save_pretrained(repo)
    image_processor.save_pretrained(repo)
    (repo / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    with HubServer(tmp_path / "hub") as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
        environment["PYTHONPATH"] = os.getcwd()
        output = run_python(HUB_SCRIPT, tmp_path / "pruned", env=environment)
        assert any(path.endswith("/model.safetensors") for _, path in hub.requests)
    expected = f"loaded facebook/deit-small-patch16-224 {model_fingerprint(SNPPruner(source).model)}"
    assert output.count(expected) == 3
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    assert [block["intermediate_size"] for block in config["block_configs"]] == [48] * 3
    card = ModelCard.load(tmp_path / "pruned" / "README.md")
    assert (card.data.license, card.data.base_model) == ("mit", "facebook/deit-small-patch16-224")
    assert card.data.tags[-1] == "deit"


def test_an_exported_model_is_refused_by_name(tmp_path):
    build_source("ViTModel").config.save_pretrained(tmp_path)
    (tmp_path / EXPORT_NAME).write_text("{}")
    with pytest.raises(ValueError, match=r"holds an exported model.*Name the model that it was exported from"):
        SNPPruner.from_pretrained(tmp_path)


def without(names, model, folder):
    """Saves a model without some of its weights."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not any(part in name for part in names)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_a_pooler_without_weights_is_left_out(tmp_path, pixel_values, caplog):
    source = build_source("ViTModel")
    without(["pooler"], source, tmp_path)
    pruners = [SNPPruner.from_pretrained(tmp_path) for _ in range(2)]
    assert "has no weights for the pooler of a ViTModel; it goes without" in caplog.text
    for pruner in pruners:
        assert pruner.model.pooler is None
        with torch.no_grad():
            found = pruner.model(pixel_values).last_hidden_state
            torch.testing.assert_close(found, source(pixel_values).last_hidden_state)


@pytest.mark.parametrize(
    ("class_name", "part", "named"),
    [
        ("ViTForImageClassification", "classifier", "classifier.bias, classifier.weight"),
        ("SwinModel", "layernorm_after", r"layernorm_after.bias, .* and others"),
        ("Dinov2Model", "position_embeddings", "embeddings.position_embeddings"),
    ],
)
def test_random_weights_are_refused(class_name, part, named, tmp_path):
    without([part], build_source(class_name), tmp_path)
    with pytest.raises(ValueError, match=rf"has no weights for .*{named}.*they would be random"):
        SNPPruner.from_pretrained(tmp_path)


def test_a_pruned_model_without_all_of_its_weights(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    without(["layers.1.mlp.fc2"], pruner.model, tmp_path)
    with pytest.raises(ValueError, match=r"has no weights for snp_vit.layers.1.mlp.fc2.bias"):
        SNPPruner.from_pretrained(tmp_path)

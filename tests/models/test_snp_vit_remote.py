"""What the ViT architecture has beyond a ViT loads without this package, bit for bit, also under transformers 4.57."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_snp.models import SNPViTBackbone, SNPViTConfig
from tests.helpers import run_python
from tests.hub_server import HubServer
from tests.test_remote_code import JOB, PYTHONS

from .comparison import images_of, randomize
from .dinov2_reference import build_dinov2, reference_config, reference_model


IMAGES = images_of(40, 27, batch_size=6)  # neither the size of the config nor a multiple of a patch


def pruned_backbone():
    """A backbone of three blocks left of four, each with sizes of its own; `stage2` is what `stage1` is."""
    fields = reference_config(build_dinov2("Dinov2WithRegisters", "Backbone", use_swiglu_ffn=True)).to_dict()
    sizes = [(3, 5, 7, 11), (1, 6, 4, 9), (2, 3, 3, 20)]
    names = ("num_attention_heads", "qk_head_dim", "v_head_dim", "intermediate_size")
    fields["block_configs"] = [dict(zip(names, block, strict=True), attention_scale=0.3) for block in sizes]
    fields |= {"num_hidden_layers": 3, "stage_depths": [1, 0, 1, 1], "out_features": ["stem", "stage2"]}
    return randomize(SNPViTBackbone(SNPViTConfig.from_dict({**fields, "out_indices": None})))


@pytest.fixture(scope="module")
def models():
    """Models by name, on the fused kernel: it is what a loaded model runs on."""
    classifiers = {
        "classifier": reference_model(build_dinov2("Dinov2", "ForImageClassification")),
        "registers": reference_model(
            build_dinov2("Dinov2WithRegisters", "ForImageClassification", use_swiglu_ffn=True)
        ),
    }
    for model in (*classifiers.values(), backbone := pruned_backbone()):
        model.set_attn_implementation("sdpa")
    return {**classifiers, "backbone": backbone}


@pytest.fixture(scope="module", params=PYTHONS)
def elsewhere(request, models, tmp_path_factory):
    """What a process without this package computed, by name of the model; a traceback where it failed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    jobs = {name: ("round_trips", str(folder / "hub" / "me" / name)) for name in models}
    jobs["backbone"] = ("backbone", "me/backbone")
    for name, model in models.items():
        model.save_pretrained(folder / "hub" / "me" / name)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    save_file({"images": IMAGES}, folder / "images.safetensors")
    with HubServer(folder / "hub") as hub:
        environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub.url}
        run_python(JOB.read_text(), folder, python=request.param, env=environment, cwd=folder)
    failed = json.loads((folder / "results.json").read_text())
    return {name: failed.get(name) or load_file(folder / f"{name}.safetensors") for name in models}


@pytest.mark.parametrize("name", ["classifier", "registers"])
def test_classifier_gives_the_same_bits(name, models, elsewhere):
    results = elsewhere[name]
    assert not isinstance(results, str), results
    with torch.inference_mode():
        outputs = models[name](IMAGES)
        states = models[name].base_model(IMAGES).last_hidden_state
    for step in range(3):  # loaded, saved and loaded, saved and loaded again
        assert torch.equal(results[f"logits{step}"], outputs.logits)
        assert torch.equal(results[f"states{step}"], states)


def test_backbone_without_a_block_gives_the_same_bits(models, elsewhere):
    results = elsewhere["backbone"]
    assert not isinstance(results, str), results
    with torch.inference_mode():
        expected = models["backbone"](IMAGES).feature_maps
    assert [tuple(feature_map.shape) for feature_map in expected] == [(6, 24, 5, 3)] * 2
    assert len(results) == 2
    assert all(torch.equal(results[str(index)], feature_map) for index, feature_map in enumerate(expected))

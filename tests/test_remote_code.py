"""Saved models load without this package, bit for bit, under transformers 5.x and 4.57.

The other version lives in an environment of its own: `make test` makes it and names its interpreter in
`SNP_TRANSFORMERS_4_PYTHON`.
"""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from tests.helpers import build_source, run_python
from tests.hub_server import HubServer


OTHER_PYTHON = os.environ.get("SNP_TRANSFORMERS_4_PYTHON")
PYTHONS = [
    pytest.param(sys.executable, id="transformers-5"),
    pytest.param(
        OTHER_PYTHON,
        id="transformers-4.57",
        marks=pytest.mark.skipif(not OTHER_PYTHON, reason="SNP_TRANSFORMERS_4_PYTHON is not set; run `make test`"),
    ),
]

# Loads through every Auto class, saves, loads what it saved, saves and loads that; all logits go to a file.
LOAD = """
import sys

sys.modules["optimum_snp"] = None
folder, inputs, outputs, scratch = sys.argv[1:]
import torch, transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

torch.set_num_threads(1)
images = load_file(inputs)["images"]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
assert type(config).__module__.startswith("transformers_modules"), type(config)
results = {}
with torch.inference_mode():
    for step in range(3):
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
        base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules"), type(model)
        results[f"logits{step}"] = model(images).logits
        results[f"states{step}"] = base(images).last_hidden_state
        folder = f"{scratch}/{step}"
        model.save_pretrained(folder)
eager = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True, attn_implementation="eager")
results["eager"] = eager.eval()(images).logits.detach()
loss = eager.train()(images, labels=torch.zeros(len(images), dtype=torch.long)).loss
loss.backward()
save_file(results, outputs)
print(transformers.__version__)
"""

# Loads a backbone from the Hub: under transformers 5, `AutoBackbone` takes names of repositories only.
BACKBONE = """
import sys

sys.modules["optimum_snp"] = None
name, inputs, outputs = sys.argv[1:]
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoBackbone

torch.set_num_threads(1)
backbone = AutoBackbone.from_pretrained(name, trust_remote_code=True).eval()
assert type(backbone).__module__.startswith("transformers_modules"), type(backbone)
assert backbone.out_features == ["stem", "stage2"], backbone.out_features
images = load_file(inputs)["images"]
backbone(images).feature_maps[-1].square().mean().backward()
with torch.inference_mode():
    maps = backbone(images).feature_maps
assert [feature_map.shape[1] for feature_map in maps] == backbone.channels
save_file({str(index): feature_map for index, feature_map in enumerate(maps)}, outputs)
"""

PIPELINE = """
import sys

sys.modules["optimum_snp"] = None
import json
from PIL import Image
from transformers import pipeline

classifier = pipeline("image-classification", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(classifier(Image.new("RGB", (50, 40), (200, 30, 90)), top_k=5)))
"""


def pruned(class_name, image_processor, method="snp", **options):
    source = build_source(class_name, **options)
    pruner = SNPPruner.from_pretrained(source, image_processor=image_processor)
    num_blocks = 5 if class_name.startswith("Swin") else 3
    shares = {
        "qk_sparsity": [0.5, 0.2, 0.0, 0.3, 0.6][:num_blocks],
        "v_sparsity": 0.3,
        "mlp_sparsity": 0.5,
        "hidden_sparsity": 0.1,
    }
    pruner.prune(SNPConfig(method=method, **shares), calibration_dataset=torch.randn(4, 3, 32, 32))
    pruner.model.set_attn_implementation("sdpa")
    return pruner


def load_elsewhere(python, folder, images, tmp_path):
    save_file({"images": images}, tmp_path / "images.safetensors")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    arguments = (folder, tmp_path / "images.safetensors", tmp_path / "out.safetensors", tmp_path)
    run_python(LOAD, *arguments, python=python, env=environment, cwd=tmp_path)
    return load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("class_name", "method", "options"),
    [
        ("ViTForImageClassification", "snp", {}),
        ("DeiTForImageClassificationWithTeacher", "snp", {}),
        ("DeiTForImageClassificationWithTeacher", "projection", {}),
        ("ViTForImageClassification", "snp-refit", {"qkv_bias": False}),  # gets biases
        ("SwinForImageClassification", "snp", {"use_absolute_embeddings": True}),
        ("SwinForImageClassification", "projection", {"qkv_bias": False}),
    ],
)
def test_saved_model_gives_the_same_bits(python, class_name, method, options, image_processor, pixel_values, tmp_path):
    pruner = pruned(class_name, image_processor, method, **options)
    pruner.save_pretrained(tmp_path / "model")
    results = load_elsewhere(python, tmp_path / "model", pixel_values, tmp_path)
    with torch.inference_mode():
        logits = pruner.model(pixel_values).logits
        states = pruner.model.base_model(pixel_values).last_hidden_state
    for step in range(3):  # loaded, saved and loaded, saved and loaded again
        assert torch.equal(results[f"logits{step}"], logits)
        assert torch.equal(results[f"states{step}"], states)
    torch.testing.assert_close(results["eager"], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("python", PYTHONS)
def test_saved_backbone_gives_the_same_bits(python, image_processor, pixel_values, tmp_path):
    pruner = pruned("SwinBackbone", image_processor, out_features=["stem", "stage2"])
    pruner.save_pretrained(tmp_path / "hub" / "me" / "backbone")
    save_file({"images": pixel_values}, tmp_path / "images.safetensors")
    with HubServer(tmp_path / "hub") as hub:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": hub.url}
        arguments = ("me/backbone", tmp_path / "images.safetensors", tmp_path / "out.safetensors")
        run_python(BACKBONE, *arguments, python=python, env=environment, cwd=tmp_path)
    results = load_file(tmp_path / "out.safetensors")
    with torch.inference_mode():
        feature_maps = pruner.model(pixel_values).feature_maps
    assert len(feature_maps) == len(results) == 2
    assert all(torch.equal(results[str(index)], feature_map) for index, feature_map in enumerate(feature_maps))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("class_name", ["DeiTForImageClassification", "SwinForImageClassification"])
def test_trainer_checkpoint_loads(class_name, python, image_processor, pixel_values, tmp_path):
    pruner = pruned(class_name, image_processor)
    args = TrainingArguments(
        tmp_path / "run", max_steps=2, report_to="none", use_cpu=True, save_steps=2, dataloader_pin_memory=False
    )
    pruner.finetune([(image, 1) for image in pixel_values], args=args)
    results = load_elsewhere(python, tmp_path / "run" / "checkpoint-2", pixel_values, tmp_path)
    with torch.inference_mode():
        assert torch.equal(results["logits0"], pruner.model(pixel_values).logits)


@pytest.mark.parametrize("python", PYTHONS)
def test_pipeline(python, image_processor, tmp_path):
    import json

    from PIL import Image

    pruner = pruned("ViTForImageClassification", image_processor)
    pruner.save_pretrained(tmp_path / "model")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    output = run_python(PIPELINE, tmp_path / "model", python=python, env=environment, cwd=tmp_path)
    found = {entry["label"]: entry["score"] for entry in json.loads(output.strip().splitlines()[-1])}
    image = image_processor(images=Image.new("RGB", (50, 40), (200, 30, 90)), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = pruner.model(image).logits.softmax(-1)[0]
    for index, label in pruner.model.config.id2label.items():
        assert found[label] == pytest.approx(expected[index].item(), abs=1e-6)


@pytest.mark.parametrize("python", PYTHONS)
def test_refusals_hold_elsewhere(python, image_processor, tmp_path):
    pruner = pruned("ViTForImageClassification", image_processor)
    pruner.save_pretrained(tmp_path / "model")
    script = """
import sys

sys.modules["optimum_snp"] = None
from transformers import AutoConfig

try:
    AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True, intermediate_size=7)
except ValueError as error:
    print(error)
try:
    AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    output = run_python(script, tmp_path / "model", python=python, env=environment, cwd=tmp_path)
    assert "intermediate_size cannot be changed while loading" in output
    assert "trust_remote_code=True" in output


@pytest.mark.parametrize(
    ("class_name", "unit"), [("ViTForImageClassification", "snp_vit"), ("SwinForImageClassification", "snp_swin")]
)
def test_modeling_code_needs_nothing_else(class_name, unit, image_processor, tmp_path):
    """The copied files alone, without config or weights of ours, say which modules they import."""
    pruned(class_name, image_processor).save_pretrained(tmp_path / "model")
    for name in (f"configuration_{unit}.py", f"modeling_{unit}.py"):
        text = (tmp_path / "model" / name).read_text()
        lines = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        roots = {line.split()[1].split(".")[0] for line in lines}
        assert roots <= {"dataclasses", "typing", "torch", "transformers", ""}, roots

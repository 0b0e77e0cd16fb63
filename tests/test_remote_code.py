"""Saved models load without this package, bit for bit, under transformers 5.x and 4.57.

The other version lives in an environment of its own: `make test` makes it and names its interpreter in
`SNP_TRANSFORMERS_4_PYTHON`.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DeiTImageProcessorPil, TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.publishing.model_folder import mark_code
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

JOB = Path(__file__).with_name("remote_code_job.py")

MODELS = {
    "vit": ("ViTForImageClassification", "snp", {}),
    "deit": ("DeiTForImageClassificationWithTeacher", "snp", {}),
    "deit-projection": ("DeiTForImageClassificationWithTeacher", "projection", {}),
    "vit-refit": ("ViTForImageClassification", "snp-refit", {"qkv_bias": False}),  # gets biases
    "swin": ("SwinForImageClassification", "snp", {"use_absolute_embeddings": True}),
    "swin-projection": ("SwinForImageClassification", "projection", {"qkv_bias": False}),
}
TRAINED = {"trained-deit": "DeiTForImageClassification", "trained-swin": "SwinForImageClassification"}


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


def trained(class_name, image_processor, images, folder):
    """A pruner after two steps of training, whose last checkpoint is in `folder`."""
    pruner = pruned(class_name, image_processor)
    args = TrainingArguments(
        folder, max_steps=2, report_to="none", use_cpu=True, save_steps=2, dataloader_pin_memory=False
    )
    pruner.finetune([(image, 1) for image in images], args=args)
    return pruner


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Pruners by name, where their models are saved, and the images to compare on."""
    folder = tmp_path_factory.mktemp("saved")
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    processor = DeiTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pruners, places = {}, {}
    for name, (class_name, method, options) in MODELS.items():
        pruners[name], places[name] = pruned(class_name, processor, method, **options), folder / name
        pruners[name].save_pretrained(places[name])
    for name, class_name in TRAINED.items():
        pruners[name] = trained(class_name, processor, images, folder / name)
        places[name] = folder / name / "checkpoint-2"
    pruners["backbone"] = pruned("SwinBackbone", processor, out_features=["stem", "stage2"])
    pruners["backbone"].save_pretrained(folder / "hub" / "me" / "backbone")
    return pruners, places, folder / "hub", images


@pytest.fixture(scope="module", params=PYTHONS)
def elsewhere(request, saved, tmp_path_factory):
    """A function that gives what a process without this package made of a model, or raises what it raised.

    One process for all of them, since each takes seconds to import transformers.
    """
    _, places, repositories, images = saved
    folder = tmp_path_factory.mktemp("elsewhere")
    jobs = {name: ("round_trips", str(place)) for name, place in places.items()}
    jobs |= {"backbone": ("backbone", "me/backbone")}
    jobs |= {"classify": ("classify", str(places["vit"])), "refuse": ("refuse", str(places["vit"]))}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    save_file({"images": images}, folder / "images.safetensors")
    with HubServer(repositories) as hub:
        environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub.url}
        script = JOB.read_text()
        run_python(script, folder, python=request.param, env=environment, cwd=folder)
    found = json.loads((folder / "results.json").read_text())

    def result_of(name):
        if name in found:
            assert not isinstance(found[name], str), found[name]
            return found[name]
        return load_file(folder / f"{name}.safetensors")

    return result_of


@pytest.mark.parametrize("name", MODELS)
def test_saved_model_gives_the_same_bits(name, saved, elsewhere):
    pruners, _, _, images = saved
    results = elsewhere(name)
    with torch.inference_mode():
        logits = pruners[name].model(images).logits
        states = pruners[name].model.base_model(images).last_hidden_state
    for step in range(3):  # loaded, saved and loaded, saved and loaded again
        assert torch.equal(results[f"logits{step}"], logits)
        assert torch.equal(results[f"states{step}"], states)
    torch.testing.assert_close(results["eager"], logits, atol=1e-5, rtol=1e-5)


def test_saved_backbone_gives_the_same_bits(saved, elsewhere):
    results = elsewhere("backbone")
    with torch.inference_mode():
        feature_maps = saved[0]["backbone"].model(saved[3]).feature_maps
    assert len(feature_maps) == len(results) == 2
    assert all(torch.equal(results[str(index)], feature_map) for index, feature_map in enumerate(feature_maps))


@pytest.mark.parametrize("name", TRAINED)
def test_trainer_checkpoint_loads(name, saved, elsewhere):
    with torch.inference_mode():
        assert torch.equal(elsewhere(name)["logits0"], saved[0][name].model(saved[3]).logits)


def test_pipeline(saved, elsewhere):
    pruner = saved[0]["vit"]
    found = {entry["label"]: entry["score"] for entry in elsewhere("classify")}
    image = Image.new("RGB", (50, 40), (200, 30, 90))
    pixel_values = pruner.image_processor(images=image, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = pruner.model(pixel_values).logits.softmax(-1)[0]
    for index, label in pruner.model.config.id2label.items():
        assert found[label] == pytest.approx(expected[index].item(), abs=1e-6)


def test_refusals_hold_elsewhere(elsewhere):
    fixed, untrusted = elsewhere("refuse")
    assert "intermediate_size cannot be changed while loading" in fixed
    assert "trust_remote_code=True" in untrusted


@pytest.mark.parametrize(("name", "unit"), [("vit", "snp_vit"), ("swin", "snp_swin")])
def test_modeling_code_needs_nothing_else(name, unit, saved):
    """The copied files alone, without config or weights of ours, say which modules they import."""
    for kind in ("configuration", "modeling"):
        text = (saved[1][name] / f"{kind}_{unit}.py").read_text()
        lines = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        roots = {line.split()[1].split(".")[0] for line in lines}
        assert roots <= {"dataclasses", "math", "typing", "torch", "transformers", ""}, roots


LOAD_ALL = """
import sys
import torch
from transformers import AutoModelForImageClassification

models = [AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True) for folder in sys.argv[1:]]
for model in models:
    print(model.eval()(torch.ones(1, 3, 32, 32)).logits[0, 0].item())
"""


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("saved_by", ["save_pretrained", pytest.param("Trainer", marks=pytest.mark.slow)])
def test_two_models_of_one_folder_name_run_their_own_code(python, saved_by, tmp_path):
    """As if two versions of this package had written them: the code of one doubles its logits."""
    pruner = SNPPruner(build_source("ViTForImageClassification"))
    with torch.inference_mode():
        expected = pruner.model(torch.ones(1, 3, 32, 32)).logits[0, 0].item()
    code = Path(sys.modules[type(pruner.model).__module__].__file__)
    changed = code.read_text().replace("logits = self.classifier(", "logits = 2 * self.classifier(")
    assert changed != code.read_text()
    for name in ("one", "two"):
        if saved_by == "save_pretrained":
            pruner.save_pretrained(tmp_path / name / "small")
            folder = tmp_path / name / "small"
        else:
            args = TrainingArguments(
                tmp_path / name, use_cpu=True, report_to="none", max_steps=1, save_steps=1, learning_rate=0.0
            )
            pruner.finetune([(torch.ones(3, 32, 32), 0)], args=args)
            folder = tmp_path / name / "checkpoint-1"
        if name == "two":
            (folder / code.name).write_text(changed)
            mark_code(folder)
    folders = [tmp_path / name / folder.name for name in ("one", "two")]
    for order in (folders, folders[::-1]):
        found = [float(line) for line in run_python(LOAD_ALL, *order, python=python).split()]
        times = [1, 2] if order == folders else [2, 1]
        assert found == [pytest.approx(expected * factor, rel=1e-4) for factor in times]

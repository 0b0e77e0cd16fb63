"""What was pushed loads over HTTP in new processes with empty caches, and its way goes on from there."""

import json
import os
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import DeiTImageProcessorPil

import optimum_snp.models
from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from tests.helpers import build_source, run_python
from tests.hub_repos import Blob, Commit, User
from tests.hub_server import HubServer


OTHER_PYTHON = os.environ.get("SNP_TRANSFORMERS_4_PYTHON")
PYTHONS = [
    pytest.param(sys.executable, id="transformers-5", marks=pytest.mark.slow),
    pytest.param(
        OTHER_PYTHON,
        id="transformers-4.57",
        marks=pytest.mark.skipif(not OTHER_PYTHON, reason="SNP_TRANSFORMERS_4_PYTHON is not set; run `make test`"),
    ),
]
# Architectures of transformers, and the Auto classes that load what is pruned from them.
AUTO_CLASSES = {
    "ViTForImageClassification": ["AutoModel", "AutoModelForImageClassification"],
    "SwinForImageClassification": ["AutoModel", "AutoModelForImageClassification", "AutoBackbone"],
}

OUTPUTS = {
    "AutoModel": "last_hidden_state",
    "AutoModelForImageClassification": "logits",
    "AutoBackbone": "feature_maps",
}


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def output_of(model, name, images):
    """The output of a model by which its Auto class is known; of several tensors the last."""
    output = getattr(model(images), OUTPUTS[name])
    return output[-1] if isinstance(output, tuple) else output


@pytest.fixture(scope="module", params=AUTO_CLASSES)
def pushed(request, images):
    """A Hub with a private repository and a public one, whose model was pruned in two steps with a commit for each.

    Of the public one a branch `broken` has the weights of the second, and code that cannot be imported.
    """
    processor = DeiTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pruner = SNPPruner(build_source(request.param), processor)
    with HubServer(tokens={"hf_mine": User("me")}) as hub, pytest.MonkeyPatch.context() as patch:
        hub.patch_client(patch)
        models = []
        for step in ({"qk_sparsity": 0.5, "mlp_sparsity": 0.5}, {"v_sparsity": 0.5}):
            models.append(pruner.prune(SNPConfig(method="snp", **step), calibration_dataset=images))
            pruner.push_to_hub("me/small", token="hf_mine")
        repo = hub.repos["me/small"]
        second = repo.commits[repo.resolve("main")]
        broken = {name: Blob(b"raise RuntimeError('this code is broken')") for name in second.files if ".py" in name}
        repo.add("broken", Commit({**second.files, **broken}, "broken", repo.resolve("main")))
        pruner.push_to_hub("me/private", token="hf_mine", private=True)
        patch.undo()
        yield hub, second.parent, models, AUTO_CLASSES[request.param]


LOAD = """
import sys

sys.modules["optimum_snp"] = None
import json
import torch, transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

first, folder, outputs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)
images = load_file(folder + "/images.safetensors")["images"]
results = {}
config = AutoConfig.from_pretrained("me/small", trust_remote_code=True)
assert type(config).__module__.startswith("transformers_modules"), type(config)
with torch.inference_mode():
    for name, output in outputs.items():
        model = getattr(transformers, name).from_pretrained("me/small", trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules"), type(model)
        results[name] = getattr(model(images), output)
        if isinstance(results[name], tuple):
            results[name] = results[name][-1]
    for name, options in {
        "first": {"revision": first},
        "code of first": {"revision": "broken", "code_revision": first},
    }.items():
        model = AutoModelForImageClassification.from_pretrained("me/small", trust_remote_code=True, **options)
        results[name] = model.eval()(images).logits
image = Image.new("RGB", (50, 40), (200, 30, 90))
processor = AutoImageProcessor.from_pretrained("me/small")
results["pixel_values"] = processor(images=image, return_tensors="pt")["pixel_values"]
found = pipeline("image-classification", model="me/small", trust_remote_code=True)(image, top_k=None)
scores = {entry["label"]: entry["score"] for entry in found}
results["pipeline"] = torch.tensor([[scores[label] for label in config.id2label.values()]])
save_file(results, folder + "/results.safetensors")

for name, options in [
    ("me/small", {"revision": "broken", "trust_remote_code": True}),
    ("me/small", {}),
    ("me/private", {"trust_remote_code": True}),
    ("me/private", {"trust_remote_code": True, "token": "hf_mine"}),
]:
    try:
        model = AutoModelForImageClassification.from_pretrained(name, **options)
        print("loaded", name, type(model).__name__)
    except (RuntimeError, ValueError, OSError) as error:
        print(error)
"""


@pytest.mark.parametrize("python", PYTHONS)
def test_loading_without_this_package(python, pushed, images, tmp_path):
    hub, first, models, auto_classes = pushed
    save_file({"images": images}, tmp_path / "images.safetensors")
    models[1].save_pretrained(tmp_path / "saved")
    outputs = json.dumps({name: OUTPUTS[name] for name in auto_classes})
    printed = run_python(
        LOAD, first, tmp_path, outputs, python=python, env=hub.environment(tmp_path / "cache"), cwd=tmp_path
    )
    results = load_file(tmp_path / "results.safetensors")
    with torch.inference_mode():
        for name in auto_classes:
            # Not through the Auto class: transformers' AutoBackbone takes no folders.
            model_class = getattr(optimum_snp.models, models[1].config.auto_map[name].split(".")[-1])
            model = model_class.from_pretrained(tmp_path / "saved").eval()
            assert torch.equal(results[name], output_of(model, name, images))
        assert torch.equal(results["AutoModelForImageClassification"], models[1](images).logits)
        assert torch.equal(results["first"], models[0](images).logits)
        assert torch.equal(results["code of first"], models[1](images).logits)
        expected = models[1](results["pixel_values"]).logits.softmax(-1)
    torch.testing.assert_close(results["pipeline"], expected, atol=1e-6, rtol=0)

    assert "this code is broken" in printed
    assert "trust_remote_code=True" in printed  # the refusal of transformers, where trust was not given
    assert "me/private is not a local folder and is not a valid model identifier" in printed
    assert printed.count("loaded") == 1
    assert f"loaded me/private {type(models[1]).__name__}" in printed


CONTINUE = """
import json, sys
import torch
from transformers import AutoModelForImageClassification, TrainingArguments
from optimum_snp import SNPConfig, SNPPruner

folder = sys.argv[1]
images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
pairs = [(image, index % 5) for index, image in enumerate(images)]
# With this package no trust is needed.
model = AutoModelForImageClassification.from_pretrained("me/small")
assert type(model).__module__.startswith("optimum_snp."), type(model)

pruner = SNPPruner.from_pretrained("me/small")
pruner.prune(SNPConfig(method="snp", hidden_sparsity=0.25), calibration_dataset=images)
args = TrainingArguments(
    folder,
    push_to_hub=True,
    hub_model_id="me/tuned",
    hub_strategy="checkpoint",
    hub_private_repo=True,
    hub_revision="training",
    max_steps=2,
    save_steps=1,
    report_to="none",
    use_cpu=True,
    dataloader_pin_memory=False,
)
pruner.finetune(pairs, args=args)
accuracy = pruner.evaluate(pairs, dataset_name="Six pictures")
pruner.push_to_hub("me/tuned", revision="training")
checkpoint = SNPPruner.from_pretrained(folder + "/checkpoint-2")
print(json.dumps([len(pruner.pruning_plan.steps), len(checkpoint.pruning_plan.steps), accuracy["accuracy"]]))
"""


def test_a_pushed_model_is_pruned_further_trained_and_pushed_by_the_trainer(pushed, tmp_path):
    hub, _, models, _ = pushed
    environment = {**hub.environment(tmp_path / "cache", token="hf_mine"), "PYTHONPATH": os.getcwd()}
    printed = run_python(CONTINUE, tmp_path / "run", env=environment)
    steps, steps_of_checkpoint, accuracy = json.loads(printed.strip().splitlines()[-1])
    assert steps == steps_of_checkpoint == 3

    repo = hub.repos["me/tuned"]
    assert repo.private
    assert list(repo.files()) == [".gitattributes"]
    commits, sha = [], repo.resolve("training")
    while sha:
        commits.append(repo.commits[sha])
        sha = commits[-1].parent
    assert [commit.message for commit in commits[:2]] == ["Upload model", "End of training"]
    progress = [commit for commit in commits if commit.message.startswith("Training in progress")]
    assert progress
    code = f"modeling_{models[1].config.model_type}.py"
    for commit in progress:  # loads at any time
        assert {"model.safetensors", code, "pruning_plan.json", "snp_config.json"} <= set(commit.files)
        folders = {name.rpartition("/")[0] for name in commit.files if name.endswith("trainer_state.json")}
        assert all(f"{folder}/pruning_plan.json" in commit.files for folder in folders)
    assert any(f"last-checkpoint/{code}" in commit.files for commit in progress)

    for commit, measured in zip(commits[:2], (True, False), strict=True):
        card = ModelCard(commit.files["README.md"].data.decode())
        assert "structured-pruning" in card.data.tags
        assert ("Six pictures" in card.text) == measured
        assert (card.data.eval_results is not None) == measured
        assert "training_args.bin" not in commit.files
    assert round(ModelCard(commits[0].files["README.md"].data.decode()).data.eval_results[0].metric_value, 6) == round(
        accuracy, 6
    )
    plan = PruningPlan.from_dict(json.loads(commits[0].files["pruning_plan.json"].data))
    assert [step.config.hidden_sparsity for step in plan.steps] == [0, 0, 0.25]
    blocks = models[1].config.block_configs
    if isinstance(blocks[0], list):  # by stage
        blocks = [block for stage in blocks for block in stage]
    assert [block.after for block in plan.previous.blocks] == blocks == [block.before for block in plan.blocks]

"""Loads saved models where this package cannot be imported: `python tests/remote_code_job.py FOLDER`.

`FOLDER/jobs.json` names for each job a function below, a model, and which of the tensors in
`FOLDER/images.safetensors` it reads if not `images`. Each leaves tensors in `FOLDER/NAME.safetensors`, a
value in `FOLDER/results.json`, or its traceback there.
"""

import json
import sys
import traceback


sys.modules["optimum_snp"] = None

import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForZeroShotImageClassification,
    pipeline,
)


def round_trips(model, images, scratch):
    """Loads through every Auto class, saves, loads what it saved, saves and loads that; trains a step."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=True)
    assert type(config).__module__.startswith("transformers_modules"), type(config)
    results = {}
    with torch.inference_mode():
        for step in range(3):
            classifier = AutoModelForImageClassification.from_pretrained(model, trust_remote_code=True).eval()
            base = AutoModel.from_pretrained(model, trust_remote_code=True).eval()
            assert type(classifier).__module__.startswith("transformers_modules"), type(classifier)
            results[f"logits{step}"] = classifier(images).logits
            results[f"states{step}"] = base(images).last_hidden_state
            model = f"{scratch}/{step}"
            classifier.save_pretrained(model)
    eager = AutoModelForImageClassification.from_pretrained(model, trust_remote_code=True, attn_implementation="eager")
    results["eager"] = eager.eval()(images).logits.detach()
    eager.train()(images, labels=torch.zeros(len(images), dtype=torch.long)).loss.backward()
    return results


def outputs(model, images, scratch):
    """Loads through the Auto class that the model names for its own class, and runs it."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=True)
    [architecture] = config.architectures
    auto_class = next(auto for auto, name in config.auto_map.items() if name.rpartition(".")[2] == architecture)
    network = getattr(transformers, auto_class).from_pretrained(model, trust_remote_code=True).eval()
    assert type(network).__module__.startswith("transformers_modules"), type(network)
    results = {}
    with torch.inference_mode():
        for name, value in network(images).items():
            parts = value if isinstance(value, tuple) else (value,)
            results |= {f"{name}.{index}": part.contiguous() for index, part in enumerate(parts)}
    return results


def scores(model, images, scratch):
    """Scores of texts for images, and the embeddings of both, by the two Auto classes that give such a model."""
    results = {}
    texts = {"input_ids": torch.tensor([[2, 3, 1], [4, 1, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
        network = auto_class.from_pretrained(model, trust_remote_code=True).eval()
        assert type(network).__module__.startswith("transformers_modules"), type(network)
        with torch.inference_mode():
            outputs = network(pixel_values=images, **texts)
        for name in ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
            results[f"{auto_class.__name__}.{name}"] = outputs[name].contiguous()
        model = f"{scratch}/again"
        network.save_pretrained(model)
    return results


def backbone(model, images, scratch):
    """Loads a backbone from the Hub: under transformers 5, `AutoBackbone` takes names of repositories only."""
    network = AutoBackbone.from_pretrained(model, trust_remote_code=True).eval()
    assert type(network).__module__.startswith("transformers_modules"), type(network)
    assert network.out_features == ["stem", "stage2"], network.out_features
    network(images).feature_maps[-1].square().mean().backward()
    with torch.inference_mode():
        maps = network(images).feature_maps
    assert [feature_map.shape[1] for feature_map in maps] == network.channels
    return {str(index): feature_map for index, feature_map in enumerate(maps)}


def classify(model, images, scratch):
    """The labels of one image by a pipeline."""
    classifier = pipeline("image-classification", model=model, trust_remote_code=True)
    return classifier(Image.new("RGB", (50, 40), (200, 30, 90)), top_k=5)


def refuse(model, images, scratch):
    """What is said about a size that cannot be changed, and without trust."""
    messages = []
    for options in ({"trust_remote_code": True, "intermediate_size": 7}, {"trust_remote_code": False}):
        try:
            AutoConfig.from_pretrained(model, **options)
        except ValueError as error:
            messages.append(str(error))
    return messages


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = sys.argv[1]
    images = load_file(f"{folder}/images.safetensors")
    results = {"version": transformers.__version__}
    with open(f"{folder}/jobs.json") as file:
        jobs = json.load(file)
    for name, (function, model, *kind) in jobs.items():
        try:
            result = globals()[function](model, images[kind[0] if kind else "images"], f"{folder}/{name}")
            if isinstance(result, dict):
                save_file(result, f"{folder}/{name}.safetensors")
            else:
                results[name] = result
        except Exception:
            results[name] = traceback.format_exc()
    with open(f"{folder}/results.json", "w") as file:
        json.dump(results, file)

"""Models of images and texts: only the vision tower is pruned, and the whole is saved and scores texts."""

import copy
import json
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForZeroShotImageClassification, PreTrainedTokenizerFast, pipeline

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.calibration import model_fingerprint
from optimum_snp.families import convert
from optimum_snp.structure import describe
from optimum_snp.structure.costs import count_macs
from tests.families.cases import IMAGES
from tests.helpers import build_source, run_python
from tests.test_remote_code import JOB, PYTHONS


CLASSES = ("CLIPModel", "MetaClip2Model", "SiglipModel")
TEXTS = {"input_ids": torch.tensor([[2, 3, 1], [4, 1, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
SCORES = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")


def scores_of(model):
    with torch.inference_mode():
        outputs = model(pixel_values=IMAGES, **TEXTS)
    return {name: outputs[name].contiguous() for name in SCORES}


@pytest.fixture(scope="module", params=CLASSES)
def calibrated(request):
    pruner = SNPPruner.from_pretrained(build_source(request.param))
    pruner.calibrate(IMAGES, num_samples=len(IMAGES))
    return pruner


def test_the_fingerprint_sees_what_the_vision_tower_computes(calibrated):
    model = copy.deepcopy(calibrated.model)
    before = model_fingerprint(model)
    assert before == calibrated.statistics.fingerprint
    model.config.vision_config.layer_norm_eps *= 10
    assert model_fingerprint(model) != before


@pytest.mark.parametrize("class_name", CLASSES)
def test_scores_are_those_of_the_source(class_name):
    source = build_source(class_name)
    model = convert(source)
    for name, value in scores_of(source).items():
        torch.testing.assert_close(scores_of(model)[name], value, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        loss = source(pixel_values=IMAGES[:2], **TEXTS, return_loss=True).loss
        torch.testing.assert_close(model(pixel_values=IMAGES[:2], **TEXTS, return_loss=True).loss, loss)
        for features, options in (("get_text_features", TEXTS), ("get_image_features", {"pixel_values": IMAGES})):
            found, expected = (getattr(network, features)(**options) for network in (model, source))
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["snp", "snp-refit", "projection"])
def test_only_the_vision_tower_is_pruned(calibrated, method):
    pruner = calibrated.copy()
    dense = pruner.model
    before = {name: weight.clone() for name, weight in dense.named_parameters()}
    model = pruner.prune(SNPConfig(method=method, target_flops=0.5, head_sparsity="auto"))
    assert count_macs(model) <= 0.5 * count_macs(dense)
    for name, weight in model.named_parameters():
        if not name.startswith("vision_model.") and name not in ("visual_projection.weight", "visual_projection.bias"):
            assert torch.equal(weight, before[name]), name
    assert all(block.name.startswith("vision_model.layers.") for block in describe(model).blocks)
    outputs = scores_of(model)
    assert all(torch.isfinite(value).all() for value in outputs.values())
    assert torch.equal(outputs["text_embeds"], scores_of(dense)["text_embeds"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Models pruned in all of their parts, in folders by their classes."""
    folder, scores = tmp_path_factory.mktemp("saved"), {}
    for class_name in CLASSES:
        pruner = SNPPruner.from_pretrained(build_source(class_name))
        shares = {"qk_sparsity": 0.5, "v_sparsity": 0.3, "mlp_sparsity": 0.4, "hidden_sparsity": 0.25}
        pruner.prune(SNPConfig(**shares, dropped_blocks=[0]), calibration_dataset=IMAGES)
        pruner.save_pretrained(folder / class_name)
        scores[class_name] = scores_of(pruner.model)
    return folder, scores


def test_the_tokenizer_comes_along(tmp_path, image_processor):
    """So that a pipeline finds all that it needs in one folder."""
    words = {word: index for index, word in enumerate(("a", "photo", "of", "cat", "dog", "<pad>"))}
    raw = Tokenizer(WordLevel(words, unk_token="a"))
    raw.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>")
    source = tmp_path / "dense"
    for part in (build_source("CLIPModel"), tokenizer, image_processor):
        part.save_pretrained(source)
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(target_flops=0.6), calibration_dataset=IMAGES)
    pruner.save_pretrained(tmp_path / "small")
    tokens = pruner.tokenizer(["a photo of cat", "dog"], padding=True, return_tensors="pt")
    again = SNPPruner.from_pretrained(tmp_path / "small").tokenizer
    assert torch.equal(again(["a photo of cat", "dog"], padding=True, return_tensors="pt").input_ids, tokens.input_ids)
    image = Image.new("RGB", (40, 32), (200, 30, 90))
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "small"), trust_remote_code=True)
    found = classify(image, candidate_labels=["cat", "dog"], hypothesis_template="a photo of {}")
    assert {one["label"] for one in found} == {"cat", "dog"}
    texts = pruner.tokenizer(["a photo of cat", "a photo of dog"], return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        scores = pruner.model(**image_processor(image, return_tensors="pt"), **texts).logits_per_image.softmax(-1)[0]
    expected = dict(zip(("cat", "dog"), scores.tolist(), strict=True))
    assert {one["label"]: one["score"] for one in found} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("class_name", CLASSES)
def test_saved_models_are_loaded_and_pruned_again(class_name, saved):
    folder, scores = saved
    pruner = SNPPruner.from_pretrained(folder / class_name)
    assert type(pruner.model).__name__ == f"SNP{class_name}"
    for name, value in scores_of(pruner.model).items():
        assert torch.equal(value, scores[class_name][name])
    for name, value in scores_of(AutoModelForZeroShotImageClassification.from_pretrained(folder / class_name)).items():
        assert torch.equal(value, scores[class_name][name])
    pruner.prune(SNPConfig(target_flops=0.6), calibration_dataset=IMAGES)
    assert torch.isfinite(scores_of(pruner.model)["logits_per_image"]).all()


@pytest.mark.parametrize("python", PYTHONS)
def test_scores_are_the_same_without_this_package(python, saved, tmp_path):
    folder, scores = saved
    jobs = {class_name: ("scores", str(folder / class_name)) for class_name in CLASSES}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    save_file({"images": IMAGES}, tmp_path / "images.safetensors")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    run_python(JOB.read_text(), tmp_path, python=python, env=environment, cwd=tmp_path)
    failed = json.loads((tmp_path / "results.json").read_text())
    for class_name in CLASSES:
        assert class_name not in failed, failed[class_name]
        found = load_file(tmp_path / f"{class_name}.safetensors")
        for name, value in scores[class_name].items():
            for auto_class in ("AutoModel", "AutoModelForZeroShotImageClassification"):
                torch.testing.assert_close(found[f"{auto_class}.{name}"], value, atol=1e-5, rtol=1e-5)

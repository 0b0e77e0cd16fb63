"""Images are of the class whose texts they are nearest to: computed anew from the outputs of the model."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, ViTImageProcessorPil

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.publishing import card
from tests.commands.running import run
from tests.families.cases import IMAGES
from tests.helpers import build_source


CLASSES = ("cat", "dog", "horse")
TOKENS = {"input_ids": torch.tensor([[2, 3, 1], [4, 5, 1], [6, 7, 1]]), "attention_mask": torch.ones(3, 3).long()}
PAIRS = [(image, index % 3) for index, image in enumerate(IMAGES)]


def pruner_of(class_name):
    return SNPPruner.from_pretrained(build_source(class_name))


def share_of(ranks, most):
    return sum(int(index % 3 in row[:most]) for index, row in enumerate(ranks.tolist())) / len(ranks)


@pytest.mark.parametrize("class_name", ["CLIPModel", "MetaClip2Model", "SiglipModel"])
def test_accuracy_is_that_of_the_scores(class_name):
    source = build_source(class_name)
    with torch.inference_mode():
        ranks = source(pixel_values=IMAGES, **TOKENS).logits_per_image.argsort(descending=True)
    found = SNPPruner.from_pretrained(source).evaluate_zero_shot(PAIRS, CLASSES, TOKENS, batch_size=5)
    assert found == {"accuracy": share_of(ranks, 1), "top5_accuracy": 1.0}


def test_labels_are_matched_by_name():
    pruner = pruner_of("CLIPModel")
    named = [(image, ("horse", "cat", "dog")[label]) for image, label in PAIRS]
    numbered = pruner.evaluate_zero_shot(PAIRS, CLASSES, TOKENS)
    assert pruner.evaluate_zero_shot(named, ("horse", "cat", "dog"), TOKENS) == numbered
    turned = {name: rows[[1, 2, 0]] for name, rows in TOKENS.items()}
    assert pruner.evaluate_zero_shot(named, CLASSES, turned) == numbered


def test_several_texts_of_a_class_count_by_their_mean():
    pruner = pruner_of("CLIPVisionModelWithProjection")
    texts = torch.randn(6, 24, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [9.0]] * 3)
    with torch.inference_mode():
        images = F.normalize(pruner.model(IMAGES).image_embeds, dim=-1)
    unit = F.normalize(texts, dim=-1)
    means = F.normalize(unit[0::2] + unit[1::2], dim=-1)
    ranks = (images @ means.T).argsort(descending=True)
    assert pruner.evaluate_zero_shot(PAIRS, CLASSES, texts)["accuracy"] == share_of(ranks, 1)


def test_a_pruned_vision_tower_is_measured_with_embeddings():
    pruner = pruner_of("SiglipVisionModel")
    pruner.prune(SNPConfig(target_flops=0.6), calibration_dataset=IMAGES)
    texts = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ranks = (pruner.model(IMAGES).pooler_output @ F.normalize(texts, dim=-1).T).argsort(descending=True)
    assert pruner.evaluate_zero_shot(PAIRS, CLASSES, texts)["accuracy"] == share_of(ranks, 1)


@pytest.mark.parametrize(
    ("classes", "texts", "error", "message"),
    [
        ("abc", torch.ones(3, 24), TypeError, "classes must be a list of names, got 'abc'"),
        ([0, 1, 2], torch.ones(3, 24), TypeError, "classes must be a list of names"),
        (["cat", "dog", "cat"], torch.ones(3, 24), ValueError, "classes names 'cat' more than once"),
        (CLASSES, "cat", TypeError, "texts must be a list of texts"),
        (CLASSES, None, TypeError, "texts must be a list of texts"),
        (CLASSES, np.ones((3, 24)), TypeError, "texts must be a list of texts"),
        (CLASSES, torch.ones(3, 24).long(), TypeError, "but this one holds torch.int64"),
        (CLASSES, torch.full((3, 24), torch.nan), ValueError, "NaN or infinite"),
        (CLASSES, {"input_ids": [[2], [3], [4]]}, TypeError, "input_ids of texts must be tensors"),
    ],
)
def test_what_names_nothing_is_refused(classes, texts, error, message):
    pruner = pruner_of("CLIPModel")
    pruner.tokenizer = lambda texts, **_: TOKENS  # which would read a text letter by letter
    with pytest.raises(error, match=message):
        pruner.evaluate_zero_shot(PAIRS, classes, texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP with its tokenizer, and images with classes."""
    folder = tmp_path_factory.mktemp("clip")
    words = {word: number for number, word in enumerate(("<pad>", "</s>", "<s>", "a", "photo", *CLASSES))}
    raw = Tokenizer(WordLevel(words, unk_token="a"))
    raw.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"]
    )
    for part in (build_source("CLIPModel"), tokenizer, ViTImageProcessorPil(size={"height": 32, "width": 32})):
        part.save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    for index in range(9):
        path = folder / "images" / CLASSES[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


def test_texts_are_read_by_the_tokenizer_that_came_along(folder):
    pruner = SNPPruner.from_pretrained(folder / "model")
    texts = [f"a photo {name}" for name in CLASSES]
    tokens = pruner.tokenizer(texts, padding=True, return_tensors="pt")
    assert pruner.evaluate_zero_shot(PAIRS, CLASSES, texts) == pruner.evaluate_zero_shot(PAIRS, CLASSES, dict(tokens))
    with pytest.raises(TypeError, match="There is no tokenizer to read texts with"):
        pruner_of("SiglipVisionModel").evaluate_zero_shot(PAIRS, CLASSES, texts)


def test_figures_are_in_record_and_card(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(card, "can_draw", lambda: False)
    pruner = SNPPruner.from_pretrained(folder / "model")
    before = pruner.evaluate_zero_shot(PAIRS, CLASSES, TOKENS, dataset_name="animals")
    other = {**TOKENS, "input_ids": TOKENS["input_ids"].flip(0)}
    pruner.evaluate_zero_shot(PAIRS, CLASSES, other, dataset_name="animals")  # other texts, another row
    pruner.prune(SNPConfig(mlp_sparsity=0.9), calibration_dataset=IMAGES)
    after = pruner.evaluate_zero_shot(PAIRS, CLASSES, TOKENS, dataset_name="animals")
    first, second, third = pruner.measurements.accuracies
    assert first.conditions == third.conditions != second.conditions
    assert (first.accuracy, third.accuracy, third.num_images) == (before["accuracy"], after["accuracy"], 12)
    pruner.save_pretrained(tmp_path / "small")
    assert SNPPruner.from_pretrained(tmp_path / "small").measurements.accuracies == [first, second, third]
    text = (tmp_path / "small" / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| Top-1 zero-shot accuracy on animals")]
    assert len(rows) == 2
    assert f"| {before['accuracy']:.2%} | {after['accuracy']:.2%} |" in rows[0]
    assert "the classes and the texts that they were measured with" in text
    [result, _] = ModelCard.load(tmp_path / "small" / "README.md").data.eval_results
    assert (result.task_type, result.metric_value) == ("zero-shot-image-classification", round(after["accuracy"], 6))


def test_a_command_measures_it(folder, capsys):
    arguments = ["evaluate", folder / "model", "--dataset", folder / "images", "--json"]
    found = run(capsys, *arguments, "--text", "a photo {}", "--text", "{}")
    texts = [text for name in CLASSES for text in (f"a photo {name}", name)]
    pruner = SNPPruner.from_pretrained(folder / "model")
    assert found == {**pruner.evaluate_zero_shot(folder / "images", CLASSES, texts), "num_images": 9}
    with pytest.raises(SystemExit, match=r"'a photo' has no \{\}, where the name of a class is to stand"):
        run(capsys, *arguments, "--text", "a photo")


@pytest.mark.parametrize(
    ("class_name", "texts", "error", "message"),
    [
        ("ViTForImageClassification", TOKENS, TypeError, "SNPViTForImageClassification gives no embeddings"),
        ("IJepaModel", TOKENS, TypeError, "SNPViTModel gives no embeddings that are compared with texts"),
        ("SiglipVisionModel", TOKENS, TypeError, "SNPViTModel has no text tower.*Pass the embeddings"),
        ("CLIPModel", torch.randn(4, 24), ValueError, "there are 4 for 3 classes"),
        ("CLIPModel", torch.randn(3, 7), ValueError, "texts are embedded in 7 numbers, images in 24"),
    ],
)
def test_what_cannot_be_measured_is_refused(class_name, texts, error, message):
    with pytest.raises(error, match=message):
        pruner_of(class_name).evaluate_zero_shot(PAIRS, CLASSES, texts)

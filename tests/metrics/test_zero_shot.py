"""Images are of the class whose texts they are nearest to: computed anew from the outputs of the model."""

import pytest
import torch
import torch.nn.functional as F

from optimum_snp import SNPConfig, SNPPruner
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

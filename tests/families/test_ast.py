"""What AST has beside the contract: its config, its norm before the classifier, and what images alone are for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.families import family_of_source
from optimum_snp.models import SNPASTConfig
from optimum_snp.publishing import card
from optimum_snp.training import Recipe
from tests.families.cases import SPECTROGRAMS


CLASS = "ASTForAudioClassification"
DOCS = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.fixture(scope="module")
def calibrated():
    pruner = SNPPruner.from_pretrained(family_of_source(CLASS).example(CLASS))
    pruner.calibrate(SPECTROGRAMS, num_samples=len(SPECTROGRAMS))
    return pruner


@pytest.mark.parametrize("method", ["snp-refit", "projection"])
def test_a_narrower_stream_is_fitted_to_the_norm_before_the_classifier(calibrated, method):
    """What that norm reads is the least-squares fit of what it read, so nearer to it than what is kept alone."""
    pruner = calibrated.copy()
    pruner.prune(SNPConfig(method=method, hidden_sparsity=0.5, reconstruction=False))
    selected = calibrated.copy()
    selected.prune(SNPConfig(method="snp", hidden_sparsity=0.5))
    read = {}
    for name, model in (("dense", calibrated.model), ("fitted", pruner.model), ("selected", selected.model)):
        assert model.classifier_norm.weight.shape == (48,)
        handle = model.classifier_norm.register_forward_pre_hook(
            lambda _m, inputs, name=name: read.update({name: inputs[0]})
        )
        with torch.inference_mode():
            model(SPECTROGRAMS)
        handle.remove()
    errors = {name: (read[name] - read["dense"]).square().sum() for name in ("fitted", "selected")}
    assert errors["fitted"] < 0.5 * errors["selected"]


def test_saved_models_come_with_their_feature_extractor(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "can_draw", lambda: False)
    extractor = ASTFeatureExtractor(sampling_rate=8000, num_mel_bins=24, max_length=32)
    pruner = SNPPruner.from_pretrained(family_of_source(CLASS).example(CLASS), image_processor=extractor)
    sounds = [
        {"audio": {"array": np.random.default_rng(seed).normal(size=3000), "sampling_rate": 8000}, "label": seed % 5}
        for seed in range(6)
    ]
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=sounds)
    pruner.save_pretrained(tmp_path / "small")
    loaded = SNPPruner.from_pretrained(tmp_path / "small")
    assert loaded.image_processor.to_dict() == extractor.to_dict()
    assert loaded.evaluate(sounds)["top5_accuracy"] == 1.0
    usage = (tmp_path / "small" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(compile(usage.replace('"."', repr(str(tmp_path / "small"))), "card", "exec"), {})


def test_the_code_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "can_draw", lambda: False)
    monkeypatch.chdir(tmp_path)
    chapter = DOCS.read_text().partition("## Sounds (AST)")[2]
    code = chapter.partition("```python\n")[2].partition("```")[0]
    exec(compile(code, "families.md", "exec"), {})
    assert (tmp_path / "ast-small" / "modeling_snp_ast.py").is_file()


def test_what_is_for_images_alone_is_refused(calibrated, tmp_path):
    pairs = [(spectrogram, 0) for spectrogram in SPECTROGRAMS]
    args = TrainingArguments(tmp_path, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="A recipe changes and mixes images, and the model reads sounds"):
        calibrated.copy().finetune(pairs, args=args, recipe=Recipe.from_preset("deit-20"))
    vit = family_of_source("ViTForImageClassification").example("ViTForImageClassification")
    with pytest.raises(ValueError, match="The teacher reads pixel_values, the student input_values"):
        calibrated.copy().finetune(pairs, args=args, teacher=vit)


def test_its_own_teacher_teaches(calibrated, tmp_path):
    pruner = calibrated.copy()
    pruner.prune(SNPConfig(mlp_sparsity=0.5))
    args = TrainingArguments(
        tmp_path, use_cpu=True, report_to="none", max_steps=1, save_strategy="no", disable_tqdm=True
    )
    dense = family_of_source(CLASS).example(CLASS)
    output = pruner.finetune([(spectrogram, 0) for spectrogram in SPECTROGRAMS], args=args, teacher=dense)
    assert output.global_step == 1


def test_a_config_that_contradicts_its_kind_is_refused():
    with pytest.raises(ValueError, match="num_channels is 3, but of such a model it is 1"):
        SNPASTConfig(num_channels=3)


def test_other_shapes_are_refused(calibrated):
    with pytest.raises(ValueError, match=r"of shape \(24, 32\); the model reads \(32, 24\)"):
        calibrated.model(torch.zeros(1, 24, 32))


def test_there_are_no_shifted_or_mirrored_copies_of_sounds(calibrated):
    pruner = calibrated.copy()
    with pytest.raises(ValueError, match="reconstruction_copies=2 shifts and mirrors images"):
        pruner.plan(SNPConfig(mlp_sparsity=0.5, reconstruction_copies=2))
    pruner.prune(SNPConfig(mlp_sparsity=0.5))
    assert pruner.pruning_plan.reconstruction_copies == 0

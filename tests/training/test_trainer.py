"""The Trainer over our datasets."""

import pytest
import torch
from transformers import TrainingArguments

from optimum_snp import SNPPruner
from optimum_snp.conversion import convert
from optimum_snp.training import build_trainer, evaluate_accuracy
from tests.helpers import build_source


def arguments(tmp_path, **options):
    return TrainingArguments(
        tmp_path, report_to="none", use_cpu=True, dataloader_pin_memory=False, max_steps=3, **options
    )


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def test_two_heads_are_evaluated_by_their_mean(pixel_values):
    model = convert(build_source("DeiTForImageClassificationWithTeacher"))
    with torch.inference_mode():
        hits = model(pixel_values).logits.argmax(-1) == torch.arange(6) % 5
    result = evaluate_accuracy(model, pairs(pixel_values), batch_size=4)
    assert result == {"accuracy": pytest.approx(hits.float().mean().item()), "top5_accuracy": 1.0}


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"activation_checkpointing": True}])
def test_training_changes_the_weights(options, source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    pruner.finetune(pairs(pixel_values), args=arguments(tmp_path, save_strategy="no", **options))
    after = pruner.model.state_dict()
    assert all(weight.isfinite().all() for weight in after.values())
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    assert not torch.equal(
        after["snp_vit.layers.0.attention.q_proj.weight"], before["snp_vit.layers.0.attention.q_proj.weight"]
    )


def test_evaluation_during_training_reports_accuracy(source, pixel_values, tmp_path):
    trainer = build_trainer(
        convert(source),
        arguments(tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="no"),
        pairs(pixel_values),
        pairs(pixel_values),
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    assert len(evaluations) == 3
    assert all(entry["eval_top5_accuracy"] == 1.0 for entry in evaluations)


def test_resuming_ends_where_an_unbroken_run_ends(source, pixel_values, tmp_path):
    whole, broken = SNPPruner.from_pretrained(source), SNPPruner.from_pretrained(source)
    options = {"save_steps": 2, "lr_scheduler_type": "constant"}
    whole.finetune(pairs(pixel_values), args=arguments(tmp_path / "whole", **options))
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    broken.finetune(
        pairs(pixel_values), args=arguments(tmp_path / "broken", **options), resume_from_checkpoint=checkpoint
    )
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(broken.model.state_dict()[name], weight)


def test_images_without_labels_cannot_train(source, pixel_values, tmp_path):
    with pytest.raises(ValueError, match="has no label; training and evaluation need one"):
        SNPPruner.from_pretrained(source).finetune(pixel_values, args=arguments(tmp_path))

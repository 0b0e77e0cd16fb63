"""The Trainer over our datasets."""

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from optimum_snp import Recipe, SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.models import SNPViTForImageClassification
from optimum_snp.structure import describe
from optimum_snp.training import build_trainer, evaluate_accuracy
from optimum_snp.training.recipes import PARTS
from tests.helpers import CHECKPOINTING, build_source, checkpoint_activations


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
    result, num_images = evaluate_accuracy(model, pairs(pixel_values), batch_size=4)
    assert num_images == len(pixel_values)
    assert result == {"accuracy": pytest.approx(hits.float().mean().item()), "top5_accuracy": 1.0}


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {CHECKPOINTING: True}])
@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_training_changes_the_weights(class_name, options, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(build_source(class_name))
    pruner.prune(SNPConfig(qk_sparsity=0.5, hidden_sparsity=0.25), calibration_dataset=pixel_values)
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    pruner.finetune(pairs(pixel_values), args=arguments(tmp_path, save_strategy="no", **options))
    after = pruner.model.state_dict()
    assert all(weight.isfinite().all() for weight in after.values())
    queries = f"{describe(pruner.model).blocks[0].name}.attention.q_proj.weight"
    for name in ("classifier.weight", queries):
        assert not torch.equal(after[name], before[name])
    assert 0 <= pruner.evaluate(pairs(pixel_values))["accuracy"] <= 1


def test_precision_is_that_of_the_arguments_whatever_came_before(source, pixel_values, tmp_path):
    args = arguments(tmp_path, save_strategy="no", bf16=True)  # made first, as at the top of a script
    pruner = SNPPruner.from_pretrained(source)
    pruner.calibrate(pixel_values, num_samples=6)
    pruner.prune(SNPConfig(mlp_sparsity=0.5))
    pruner.evaluate(pairs(pixel_values))
    dtypes = set()
    hook = pruner.model.snp_vit.layers[0].mlp.fc1.register_forward_hook(lambda *call: dtypes.add(call[2].dtype))
    pruner.finetune(pairs(pixel_values), args=args)
    hook.remove()
    assert dtypes == {torch.bfloat16}
    assert pruner.model(pixel_values).logits.dtype == torch.float32  # nothing of the training stays wrapped around it


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


def test_stream_that_knows_its_length_is_read_as_often_as_asked(source, pixel_values, tmp_path):
    images = datasets.Dataset.from_dict({"pixel_values": pixel_values.tolist(), "label": [0, 1, 2, 0, 1, 2]})
    stream = images.to_iterable_dataset()
    args = arguments(tmp_path, save_strategy="no", per_device_train_batch_size=2, num_train_epochs=3)
    args.max_steps = -1
    pruner = SNPPruner.from_pretrained(source)
    with pytest.raises(ValueError, match="stream that does not know its length"):
        pruner.finetune(stream, args=args)
    stream._split = datasets.Split.TRAIN  # as `load_dataset(..., streaming=True)` gives it
    stream.info.splits = {"train": datasets.SplitInfo("train", num_examples=6)}
    assert pruner.finetune(stream, args=args).global_step == 9
    assert args.max_steps == -1


def test_images_without_labels_cannot_train(source, pixel_values, tmp_path):
    with pytest.raises(ValueError, match="has no label; training and evaluation need one"):
        SNPPruner.from_pretrained(source).finetune(pixel_values, args=arguments(tmp_path))


# Which computes the loss itself, and draws nothing.
SMOOTHING = Recipe(epochs=1, learning_rate=0.1).without(*set(PARTS) - {"label_smoothing"})


@pytest.mark.parametrize("recipe", [None, SMOOTHING], ids=["plain", "recipe"])
@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_accumulated_gradients_count_every_image_once(class_name, recipe, tmp_path):
    """Batches of 4, 4 and 2 images make the step that one batch of 10 makes."""
    images = pairs(torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    without_chance = {"drop_path_rate": 0.0} if class_name.startswith("Swin") else {}
    weights, losses = [], []
    for batch_size, accumulation in ((10, 1), (4, 3)):
        pruner = SNPPruner(build_source(class_name, **without_chance))
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        result = pruner.finetune(
            images,
            args=arguments(tmp_path, save_strategy="no", optim="sgd", learning_rate=0.1, **options),
            recipe=recipe,
        )
        weights.append(pruner.model.state_dict())
        losses.append(result.training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_checkpointing_activations_leaves_the_gradients_as_they_are(class_name, pixel_values):
    model = convert(build_source(class_name, hidden_dropout_prob=0.1)).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model)
        model.zero_grad()
        torch.manual_seed(0)  # of dropout
        model(pixel_values, labels=torch.arange(6) % 5).loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_leaves_no_trace(backend, source, pixel_values, tmp_path, request):
    request.addfinalizer(torch.compiler.reset)
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(qk_sparsity=0.5), calibration_dataset=pixel_values)
    args = arguments(tmp_path, save_steps=3, torch_compile=True, torch_compile_backend=backend)
    pruner.finetune(pairs(pixel_values), args=args)
    assert type(pruner.model) is SNPViTForImageClassification
    assert not any("_orig_mod" in name for name in load_file(tmp_path / "checkpoint-3" / "model.safetensors"))
    checkpoint = SNPPruner.from_pretrained(tmp_path / "checkpoint-3").model
    torch.testing.assert_close(checkpoint(pixel_values).logits, pruner.model(pixel_values).logits)

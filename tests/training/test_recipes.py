"""Recipes: their schedules, and trainings by them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from optimum_snp import DistillationConfig, Recipe, SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.structure import describe
from optimum_snp.training import build_trainer
from optimum_snp.training.averaging import AVERAGE_NAME
from optimum_snp.training.depth import layer_depths, stochastic_depth
from optimum_snp.training.recipes import PARTS
from tests.helpers import build_source


PLAIN = Recipe(epochs=1, learning_rate=1e-3).without(*PARTS)


def arguments(tmp_path, **options):
    settings = {"max_steps": 3, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    return TrainingArguments(tmp_path, dataloader_pin_memory=False, **{**settings, **options})


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def images():
    pixels = np.random.default_rng(0).integers(256, size=(6, 40, 48, 3), dtype=np.uint8)
    return [(Image.fromarray(image), index % 5) for index, image in enumerate(pixels)]


def test_schedule_of_the_paper(tmp_path):
    """AdamW, learning rate 1e-3 for 512 images, weight decay 0.05, no warm-up (arXiv 2404.11630); DeiT's the rest."""
    recipe = Recipe.from_preset("deit-300")
    args = recipe.training_arguments(
        tmp_path, per_device_train_batch_size=64, gradient_accumulation_steps=4, use_cpu=True
    )
    assert args.learning_rate == pytest.approx(1e-3 * 256 / 512)
    assert (args.num_train_epochs, args.weight_decay, args.label_smoothing_factor) == (300, 0.05, 0.1)
    assert args.get_warmup_steps(1000) == 0
    assert (recipe.rand_augment, recipe.random_erasing, recipe.mixup, recipe.cutmix) == (9, 0.25, 0.8, 1.0)
    assert (recipe.drop_path, recipe.ema) == (0.1, 0.99996)


def test_rate_rises_and_falls_to_a_hundredth(source, pixel_values, tmp_path):
    recipe = Recipe(epochs=20, learning_rate=5e-3, warmup=0.05)
    args = recipe.training_arguments(tmp_path, per_device_train_batch_size=3, use_cpu=True, logging_steps=1)
    trainer = build_trainer(convert(source), args, pairs(pixel_values))
    trainer.create_optimizer_and_scheduler(40)
    rates = []
    for _ in range(40):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    highest = 5e-3 * 3 / 512
    assert rates[:3] == pytest.approx([0, highest / 2, highest])
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(highest / 100)


def test_arguments_of_the_caller_overrule_the_recipe(tmp_path):
    args = Recipe.from_preset("deit-20").training_arguments(
        tmp_path, learning_rate=0.1, num_train_epochs=2, use_cpu=True
    )
    assert (args.learning_rate, args.num_train_epochs, args.weight_decay) == (0.1, 2, 0.05)


@pytest.mark.parametrize("class_name", ["DeiTForImageClassificationWithTeacher", "SwinForImageClassification"])
def test_whole_recipe_trains_with_a_teacher(class_name, image_processor, tmp_path):
    pruner = SNPPruner.from_pretrained(build_source(class_name), image_processor=image_processor)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=[image for image, _ in images()])
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    drop_path_rate = pruner.model.config.drop_path_rate
    output = pruner.finetune(
        images(),
        images(),
        args=Recipe.from_preset("deit-20").training_arguments(
            tmp_path, max_steps=3, per_device_train_batch_size=3, report_to="none", use_cpu=True, save_strategy="no"
        ),
        recipe="deit-20",
        distillation=DistillationConfig(),
    )
    assert 0 < output.training_loss < float("inf")
    assert not torch.equal(pruner.model.state_dict()["classifier.weight"], before["classifier.weight"])
    assert pruner.model.config.drop_path_rate == drop_path_rate  # the recipe is the training's, not the model's


@pytest.mark.parametrize("class_name", ["ViTForImageClassification", "SwinForImageClassification"])
def test_stochastic_depth_leaves_out_a_growing_share_of_the_images(class_name, pixel_values):
    model = convert(build_source(class_name, drop_path_rate=0.0)).train()
    blocks = describe(model).blocks
    own = [block.module.drop_path.rate for block in blocks]
    with stochastic_depth(model, 0.8):
        rates = [block.module.drop_path.rate for block in blocks]
        torch.manual_seed(0)
        dropped = blocks[-1].module.drop_path(torch.ones(4000, 2, 3))
        model(pixel_values).logits.sum().backward()
    assert rates == pytest.approx([0.8 * index / (len(blocks) - 1) for index in range(len(blocks))])
    assert [block.module.drop_path.rate for block in blocks] == own
    assert (dropped == 0).flatten(1).all(1).float().mean() == pytest.approx(0.8, abs=0.03)
    kept = dropped[(dropped != 0).flatten(1).any(1)]
    torch.testing.assert_close(kept, torch.full_like(kept, 5.0))


def test_a_block_left_out_adds_nothing(source, pixel_values):
    """In training at rate 1 a ViT is its embeddings, its head and what blocks are left."""
    model = convert(source)
    for layer in model.snp_vit.layers:
        layer.drop_path.rate = 1.0
    model.train()
    expected = model.classifier(model.snp_vit.layernorm(model.snp_vit.embeddings(pixel_values))[:, 0])
    torch.testing.assert_close(model(pixel_values).logits, expected)
    assert not torch.allclose(model.eval()(pixel_values).logits, expected)


def test_learning_rates_fall_from_the_head_to_the_embeddings(source, pixel_values, tmp_path):
    recipe = Recipe(epochs=1, learning_rate=1.0, layer_decay=0.5)
    args = arguments(tmp_path, learning_rate=0.8, weight_decay=0.1)
    trainer = build_trainer(convert(source), args, pairs(pixel_values), recipe=recipe.without("crop", "flip", *PARTS))
    optimizer = trainer.create_optimizer()
    rate_of, decay_of = {}, {}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            rate_of[id(weight)], decay_of[id(weight)] = group["lr"], group["weight_decay"]
    weights = dict(trainer.model.named_parameters())
    assert len(rate_of) == len(weights)
    for name, exponent in {
        "classifier.weight": 0,
        "snp_vit.layernorm.weight": 0,
        "snp_vit.layers.2.mlp.fc1.weight": 1,
        "snp_vit.layers.0.attention.q_proj.weight": 3,
        "snp_vit.embeddings.cls_token": 4,
    }.items():
        assert rate_of[id(weights[name])] == pytest.approx(0.8 * 0.5**exponent), name
    assert decay_of[id(weights["snp_vit.layers.0.mlp.fc1.weight"])] == 0.1
    assert decay_of[id(weights["snp_vit.layernorm.weight"])] == 0


def test_patch_merging_of_a_swin_is_as_deep_as_the_block_before_it():
    model = convert(build_source("SwinForImageClassification"))
    depths = layer_depths(model)
    assert depths["snp_swin.stages.0.downsample.reduction.weight"] == 2
    assert depths["snp_swin.stages.1.blocks.0.mlp.fc1.weight"] == 3
    assert (min(depths.values()), max(depths.values())) == (0, 6)


def run(source, pixel_values, folder, **options):
    """A training with an average, its checkpoints, and what every step left, the start first."""
    pruner = SNPPruner.from_pretrained(source)
    trainer = build_trainer(
        pruner.model,
        arguments(folder, learning_rate=1e-2, max_steps=6, lr_scheduler_type="constant", **options),
        pairs(pixel_values),
        pairs(pixel_values),
        recipe=Recipe(epochs=1, learning_rate=1.0, ema=0.3, drop_path=0.2).without(*set(PARTS) - {"ema", "drop_path"}),
    )
    weights = []
    step = trainer.average.on_step_end
    weight = trainer.model.classifier.weight

    def record(*args, **kwargs):
        weights.append(weight.detach().clone())
        return step(*args, **kwargs)

    trainer.average.on_step_end = record
    return trainer, weights


def test_average_of_the_weights_is_what_a_training_ends_with(source, pixel_values, tmp_path):
    trainer, weights = run(source, pixel_values, tmp_path)
    trainer.train()
    assert len(weights) == 6
    average = weights[0]
    for steps, current in enumerate(weights[1:], start=1):
        kept = min(0.3, (1 + steps) / (10 + steps))
        average = kept * average + (1 - kept) * current
    torch.testing.assert_close(trainer.model.classifier.weight.detach(), average)
    assert not torch.allclose(average, weights[-1], atol=1e-4)


def test_average_is_evaluated_during_the_training(source, pixel_values, tmp_path):
    trainer, _ = run(source, pixel_values, tmp_path, eval_strategy="steps", eval_steps=6)
    trainer.train()
    during = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert during == [pytest.approx(trainer.evaluate()["eval_loss"])]
    trainer.average.apply()  # the latest weights instead
    assert not math.isclose(during[0], trainer.evaluate()["eval_loss"], rel_tol=1e-4)


def test_average_goes_on_after_a_checkpoint(source, pixel_values, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4}
    whole, _ = run(source, pixel_values, tmp_path / "whole", **options)
    whole.train()
    broken, weights = run(source, pixel_values, tmp_path / "broken", **options)
    broken.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert len(weights) == 2
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(broken.model.state_dict()[name], weight)
    assert (tmp_path / "whole" / "checkpoint-4" / AVERAGE_NAME).is_file()


def test_average_does_not_go_with_the_best_checkpoint(source, pixel_values, tmp_path):
    recipe = Recipe(1, 1.0).without(*set(PARTS) - {"ema"})
    args = arguments(tmp_path, load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")
    with pytest.raises(ValueError, match=r"does not go with load_best_model_at_end. Use recipe.without\('ema'\)"):
        build_trainer(convert(source), args, pairs(pixel_values), pairs(pixel_values), recipe=recipe)


def test_average_needs_more_digits_than_those_of_half_precision(source, pixel_values, tmp_path):
    recipe = Recipe(1, 1.0).without(*set(PARTS) - {"ema"})
    model = convert(source).to(torch.bfloat16)
    with pytest.raises(ValueError, match="Load the model in float32 and set bf16=True"):
        build_trainer(model, arguments(tmp_path), pairs(pixel_values), recipe=recipe)
    build_trainer(model, arguments(tmp_path), pairs(pixel_values), recipe=recipe.without("ema"))


def test_everything_off_is_a_plain_training(source, pixel_values, tmp_path):
    trained = []
    for recipe in (None, PLAIN):
        pruner = SNPPruner.from_pretrained(source)
        pruner.finetune(pairs(pixel_values), args=arguments(tmp_path, label_smoothing_factor=0.2), recipe=recipe)
        trained.append(pruner.model.state_dict())
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recipe.from_preset("deit-30"), "recipe must be one of 'deit-20', 'deit-300', got 'deit-30'"),
        (lambda: Recipe.from_preset("deit-20").without("blur"), "no part 'blur' to leave out; its parts are crop"),
        (lambda: Recipe(1, 1e-3, mixup=-1), "mixup must be a number from 0, got -1"),
        (lambda: Recipe(1, 1e-3, flip=1.5), "flip must be a number from 0 to 1, got 1.5"),
        (lambda: Recipe(1, 1e-3, rand_augment=11), "rand_augment must be a number from 0 to 10"),
        (lambda: Recipe(1, 1e-3, ema=1), "ema must be less than 1"),
        (lambda: Recipe(0, 1e-3), "epochs must be greater than 0"),
    ],
)
def test_values_that_are_not_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Parts of a Trainer that users bring along: used as they mean it, or refused."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch.utils import data as torch_data
from transformers import TrainingArguments, default_data_collator

from optimum_snp import DistillationConfig, Recipe, SNPPruner
from optimum_snp.data import pixel_dataset
from optimum_snp.training import build_trainer, evaluate_accuracy
from optimum_snp.training.recipes import PARTS
from optimum_snp.training.reproducible import reproducible
from tests.data import perfect
from tests.data.test_wrappers import OTHER_NAMES, Folder, Stream, hf_dataset


PLAIN = Recipe(epochs=1, learning_rate=0.1).without(*PARTS)


@pytest.fixture
def pruner():
    return SNPPruner(perfect.model(), perfect.processor())


def arguments(folder, **options):
    settings = {"save_strategy": "no", "max_steps": 2, "per_device_train_batch_size": 4, **options}
    return TrainingArguments(
        folder, use_cpu=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, **settings
    )


def accuracy_of_logits(prediction):
    logits, labels = prediction.predictions, prediction.label_ids
    assert logits.shape == (len(labels), 4)
    return {"mine": float((logits.argmax(-1) == labels).mean())}


def test_own_metrics_get_logits(pruner, tmp_path):
    args = arguments(
        tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, learning_rate=1e-6,
        load_best_model_at_end=True, metric_for_best_model="mine",
    )  # fmt: skip
    log = []
    trainer = build_trainer(
        pruner.model, args, hf_dataset(), hf_dataset(), image_processor=pruner.image_processor,
        compute_metrics=accuracy_of_logits,
    )  # fmt: skip
    trainer.train()
    log = [entry["eval_mine"] for entry in trainer.state.log_history if "eval_mine" in entry]
    assert log == [1.0, 1.0]
    assert trainer.state.best_metric == 1.0


def test_own_preprocessing_goes_with_own_metrics(pruner, tmp_path):
    def best(logits, labels):
        return logits.argmax(-1)

    def mine(prediction):
        return {"mine": float((prediction.predictions == prediction.label_ids).mean())}

    trainer = build_trainer(
        pruner.model, arguments(tmp_path), None, hf_dataset(), image_processor=pruner.image_processor,
        compute_metrics=mine, preprocess_logits_for_metrics=best,
    )  # fmt: skip
    assert trainer.evaluate()["eval_mine"] == 1.0


@pytest.mark.parametrize("recipe", [None, PLAIN], ids=["plain", "recipe"])
def test_own_loss_is_used(recipe, pruner, tmp_path):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(labels.tolist())
        return F.cross_entropy(outputs.logits, labels)

    pruner.finetune(hf_dataset(), args=arguments(tmp_path), recipe=recipe, compute_loss_func=loss)
    assert [len(labels) for labels in seen] == [4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "itself"}, "compute_loss_func replaces the loss that learns from a teacher"),
        ({"recipe": Recipe(epochs=1, learning_rate=0.1).without(*set(PARTS) - {"mixup"})}, "from mixup and cutmix"),
    ],
)
def test_own_loss_that_would_be_ignored_is_refused(options, message, pruner, tmp_path):
    if "teacher" in options:
        options = {"teacher": perfect.model(), "distillation": DistillationConfig()}
    with pytest.raises(ValueError, match=message):
        pruner.finetune(hf_dataset(), args=arguments(tmp_path), compute_loss_func=lambda *_, **__: 0, **options)


def test_own_optimizer_trains_its_model_and_no_other(pruner, tmp_path):
    own = torch.optim.SGD(pruner.model.parameters(), lr=0.1)
    before = pruner.model.classifier.weight.clone()
    pruner.finetune(hf_dataset(), args=arguments(tmp_path), optimizers=(own, None))
    assert not torch.equal(pruner.model.classifier.weight, before)
    other = torch.optim.SGD(perfect.model().parameters(), lr=0.1)  # of the model before pruning, say
    for options in (
        {"optimizers": (other, None)},
        {"optimizers": (own, None), "peft_config": LoraConfig(target_modules=["q_proj"])},
    ):
        with pytest.raises(ValueError, match="The optimizer holds weights that are not those which are trained"):
            pruner.finetune(hf_dataset(), args=arguments(tmp_path), **options)


def collator_of_the_examples(examples):
    """As in the examples of transformers."""
    pixel_values = torch.stack([example["pixel_values"] for example in examples])
    labels = torch.tensor([example["label"] for example in examples])
    return {"pixel_values": pixel_values, "labels": labels}


@pytest.mark.parametrize("collator", [collator_of_the_examples, default_data_collator])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_usual_collators(collator, num_workers, pruner, tmp_path):
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=2, learning_rate=1e-6)
    trainer = build_trainer(
        pruner.model, args, hf_dataset(), hf_dataset(), image_processor=pruner.image_processor,
        data_collator=collator, num_workers=num_workers,
    )  # fmt: skip
    trainer.train()
    assert trainer.args.dataloader_num_workers == num_workers
    assert trainer.state.log_history[-2]["eval_accuracy"] == 1.0


def test_label_smoothing_counts_every_image_once(tmp_path):
    """Also where gradients of several batches make one step, for which some older transformers took larger ones."""
    weights = []
    for batch_size, accumulation in ((12, 1), (4, 3)):
        pruner = SNPPruner(perfect.model(), perfect.processor())
        args = arguments(
            tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=1,
            label_smoothing_factor=0.3, optim="sgd", learning_rate=1.0, max_grad_norm=0,
        )  # fmt: skip
        pruner.finetune(hf_dataset(), args=args)
        weights.append(pruner.model.classifier.weight)
    start = perfect.model().classifier.weight
    torch.testing.assert_close(weights[1] - start, weights[0] - start, rtol=1e-3, atol=1e-5)
    assert (weights[0] - start).abs().max() > 1e-3


def test_several_evaluation_sets(pruner, tmp_path):
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=2, learning_rate=1e-6)
    sets = {"all": hf_dataset(), "few": Folder(["RED", "blue"])}
    trainer = build_trainer(pruner.model, args, hf_dataset(), sets, image_processor=pruner.image_processor)
    trainer.train()
    found = {name: value for entry in trainer.state.log_history for name, value in entry.items() if "accuracy" in name}
    assert found == {
        "eval_all_accuracy": 1.0,
        "eval_all_top5_accuracy": 1.0,
        "eval_few_accuracy": 1.0,
        "eval_few_top5_accuracy": 1.0,
    }
    with pytest.raises(TypeError, match="Pass one split of the dataset, not all; it has 'all', 'few'"):
        pruner.evaluate(sets)


@pytest.mark.parametrize("num_workers", [0, 2, None])
def test_workers_change_nothing(num_workers, pruner):
    many = hf_dataset(count=300)
    images = evaluate_accuracy(pruner.model, many, image_processor=pruner.image_processor, num_workers=num_workers)
    assert images == ({"accuracy": 1.0, "top5_accuracy": 1.0}, 300)
    statistics = pruner.calibrate(many, 20, num_workers=num_workers)
    expected = pruner.calibrate(many, 20)
    assert torch.equal(statistics.blocks[0]["cosines"], expected.blocks[0]["cosines"])


@pytest.mark.parametrize("num_workers", [-1, 1.5, True])
def test_what_is_no_number_of_workers(num_workers, pruner):
    for verb in (pruner.calibrate, pruner.evaluate):
        with pytest.raises(ValueError, match="num_workers must be an integer from 0"):
            verb(hf_dataset(), num_workers=num_workers)


def test_streams_of_ones_own_are_not_read_several_times(pruner):
    with pytest.raises(ValueError, match="would be read by every worker as a whole"):
        pruner.evaluate(Stream(OTHER_NAMES), num_workers=2)
    stream = hf_dataset(count=40).to_iterable_dataset(num_shards=4)
    assert evaluate_accuracy(pruner.model, stream, image_processor=pruner.image_processor, num_workers=2)[1] == 40


class Drawn(torch_data.Dataset):
    """Items that are what the three generators draw."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()), random.random(), np.random.rand()])


class DrawnStream(torch_data.IterableDataset):
    """The same as a stream that deals out its items to workers."""

    def __iter__(self):
        worker = torch_data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, 12, step):
            yield Drawn()[index]


@pytest.mark.parametrize("dataset", [Drawn(), DrawnStream()])
def test_draws_are_those_of_the_image_whatever_the_workers(dataset):
    found = []
    for num_workers in (0, 2, 3):
        loader = torch_data.DataLoader(reproducible(dataset, 7), batch_size=2, num_workers=num_workers)
        items = torch.cat(list(loader))
        found.append(items[items[:, 0].argsort()])
        assert len(found[-1][:, 1:].unique()) == 36  # no two images draw alike
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_random_changes_of_images_do_not_depend_on_workers(pruner):
    def jitter(batch):
        return {"image": [image.rotate(random.random() * 90) for image in batch["image"]], "label": batch["label"]}

    pixels = pixel_dataset(hf_dataset().with_transform(jitter), pruner.model.config, perfect.processor())
    batches = [
        torch.cat(
            [batch["pixel_values"] for batch in torch_data.DataLoader(reproducible(pixels, 3), 2, num_workers=n)]
        )
        for n in (0, 2)
    ]
    assert torch.equal(*batches)

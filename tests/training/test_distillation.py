"""Learning from a teacher."""

import copy

import datasets
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset
from transformers import DeiTImageProcessorPil, ResNetConfig, ResNetForImageClassification, TrainingArguments

from optimum_snp import DistillationConfig, SNPConfig, SNPPruner
from optimum_snp.families import convert
from optimum_snp.training import Recipe, build_trainer
from optimum_snp.training.distillation import Teacher, distillation_loss, load_teacher
from optimum_snp.training.recipes import PARTS
from tests.helpers import build_source


LABELS = torch.arange(6) % 5


def arguments(tmp_path, **options):
    settings = {"max_steps": 3, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    return TrainingArguments(tmp_path, dataloader_pin_memory=False, **{**settings, **options})


def pairs(pixel_values):
    return [(image, int(label)) for image, label in zip(pixel_values, LABELS, strict=True)]


def teacher_of(class_name="ViTForImageClassification", seed=3, **options):
    """Another random classifier than that of `build_source`."""
    model = build_source(class_name, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def cross_entropy(logits, probabilities):
    return -(probabilities * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_loss_is_the_divergence_of_the_probabilities(temperature):
    student, teacher = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    expected = temperature**2 * (p * (p / q).log()).sum(dim=-1).mean()
    found = distillation_loss(student, teacher, DistillationConfig(temperature=temperature))
    torch.testing.assert_close(found, expected)


def test_soft_gradients_do_not_shrink_with_the_temperature():
    """At high temperatures the gradient becomes that of the squared difference of centred logits, whatever it is."""
    student, teacher = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    distillation_loss(student, teacher, DistillationConfig(temperature=1e3)).backward()
    difference = student.detach() - student.detach().mean(-1, keepdim=True) - teacher + teacher.mean(-1, keepdim=True)
    torch.testing.assert_close(student.grad, difference / 5 / 3, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize(
    "class_name", ["SwinForImageClassification", "DeiTForImageClassificationWithTeacher", "ViTForImageClassification"]
)
def test_training_loss_weighs_labels_and_teacher(class_name, kind, pixel_values, tmp_path):
    """One head learns from both; of two, that of the distillation token learns from the teacher."""
    options = {"drop_path_rate": 0.0} if class_name.startswith("Swin") else {}
    student, teacher = convert(build_source(class_name, **options)), teacher_of()
    config = DistillationConfig(kind, temperature=2.0, weight=0.3)
    trainer = build_trainer(
        student,
        arguments(tmp_path, label_smoothing_factor=0.1),
        pairs(pixel_values),
        distillation=config,
        teacher=teacher,
    )
    found = trainer.compute_loss(student.train(), {"pixel_values": pixel_values, "labels": LABELS})

    outputs, teacher_logits = student(pixel_values), teacher(pixel_values).logits
    two_heads = class_name.endswith("WithTeacher")
    of_labels, of_teacher = (
        (outputs.cls_logits, outputs.distillation_logits) if two_heads else (outputs.logits, outputs.logits)
    )
    label_loss = cross_entropy(of_labels, F.one_hot(LABELS, 5) * 0.9 + 0.1 / 5)
    if kind == "hard":
        teacher_loss = cross_entropy(of_teacher, F.one_hot(teacher_logits.argmax(-1), 5).float())
    else:
        soft = (teacher_logits / 2).softmax(-1)
        teacher_loss = 4 * (cross_entropy(of_teacher / 2, soft) + (soft * soft.log()).sum(-1).mean())
    torch.testing.assert_close(found, 0.7 * label_loss + 0.3 * teacher_loss)


def test_evaluation_does_not_ask_the_teacher(source, pixel_values, tmp_path):
    student = convert(source)
    plain = build_trainer(copy.deepcopy(student), arguments(tmp_path), None, pairs(pixel_values)).evaluate()
    trainer = build_trainer(
        student,
        arguments(tmp_path),
        None,
        pairs(pixel_values),
        distillation=DistillationConfig(),
        teacher=teacher_of(),
    )
    trainer.teacher.model = None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain["eval_loss"])


def test_student_becomes_like_its_teacher(pixel_values, tmp_path):
    """By the teacher alone, in two steps of accumulation per update; the teacher stays as it is."""
    teacher = teacher_of().train()
    before = copy.deepcopy(teacher.state_dict())
    pruner = SNPPruner.from_pretrained(build_source("ViTForImageClassification"))

    def distance():
        with torch.inference_mode():
            logits = pruner.model.eval()(pixel_values).logits, copy.deepcopy(teacher).eval()(pixel_values).logits
        return distillation_loss(*logits, DistillationConfig()).item()

    start = distance()
    pruner.finetune(
        pairs(pixel_values),
        args=arguments(
            tmp_path,
            max_steps=30,
            learning_rate=2e-3,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=2,
        ),
        distillation=DistillationConfig(weight=1.0),
        teacher=teacher,
    )
    assert distance() < 0.1 * start
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, before[name])


def test_the_model_before_pruning_teaches_unless_another_is_named(source, pixel_values, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Teacher, "__call__", lambda self, images: seen.append(self.model(images).logits) or seen[-1])
    pruner = SNPPruner.from_pretrained(source)
    for _ in range(2):  # pruned twice, the first is the original
        pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    options = {"args": arguments(tmp_path, max_steps=1, per_device_train_batch_size=6)}
    batch = [(pixel_values[0], 1)] * 6
    pruner.finetune(batch, distillation=DistillationConfig(), **options)
    torch.testing.assert_close(seen[0][0], source(pixel_values).logits[0])
    teacher = teacher_of()
    pruner.finetune(batch, teacher=teacher, **options)
    torch.testing.assert_close(seen[1][0], teacher(pixel_values).logits[0])


def test_cached_logits_train_as_those_of_each_batch(source, pixel_values, tmp_path):
    trained = []
    for cache_logits in (False, True):
        pruner = SNPPruner.from_pretrained(source)
        pruner.finetune(
            pairs(pixel_values),
            args=arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=2),
            distillation=DistillationConfig(cache_logits=cache_logits),
            teacher=teacher_of(),
        )
        trained.append(pruner.model.state_dict())
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight)


class Noisy(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.randn(3, 32, 32), 0


def test_logits_of_images_that_change_are_not_cached(source, pixel_values, image_processor, tmp_path):
    options = {"distillation": DistillationConfig(cache_logits=True), "teacher": source, "args": arguments(tmp_path)}
    pruner = SNPPruner.from_pretrained(source)
    with pytest.raises(ValueError, match="same every time; image 0 of the training set is not"):
        pruner.finetune(Noisy(), **options)
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"pixel_values": pixel_values[0], "label": 0}]))
    with pytest.raises(ValueError, match="not a stream"):
        pruner.finetune(stream, **options)
    message = "does not go with a data_collator, nor with a recipe that changes or mixes"
    with pytest.raises(ValueError, match=message):
        pruner.finetune(pairs(pixel_values), data_collator=lambda items: items, **options)
    recipe = Recipe(epochs=1, learning_rate=0.1)
    mixing = recipe.without(*set(PARTS) - {"mixup"})
    flipping = recipe.without(*set(PARTS) - {"flip"})  # which may leave the few images alone that are tried
    for recipe in (mixing, flipping):
        pruner = SNPPruner.from_pretrained(source, image_processor=image_processor)
        with pytest.raises(ValueError, match=message):
            pruner.finetune(pairs(pixel_values), recipe=recipe, **options)


@pytest.mark.parametrize(
    ("teacher_dtype", "options", "expected"),
    [("student", {}, torch.float32), ("student", {"bf16": True}, torch.bfloat16), ("own", {"bf16": True}, None)],
)
def test_precision_of_the_teacher(teacher_dtype, options, expected, source, pixel_values, tmp_path):
    """That of the training, or its own: here float64, in which no training is."""
    config = DistillationConfig(teacher_dtype=teacher_dtype)
    teacher = Teacher(source.double(), config, arguments(tmp_path, **options), torch.float32)
    dtypes = set()
    teacher.model.classifier.register_forward_hook(lambda *call: dtypes.add(call[2].dtype))
    assert teacher(pixel_values).dtype == torch.float32
    assert dtypes == {expected or torch.float64}
    assert source.dtype == torch.float64


def test_any_classifier_teaches_by_name(source, pixel_values, image_processor, tmp_path):
    torch.manual_seed(0)
    ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
    ).save_pretrained(tmp_path / "resnet")
    processor = DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "resnet")  # another way to the same 32 pixels
    pruner = SNPPruner.from_pretrained(source, image_processor=image_processor)
    output = pruner.finetune(pairs(pixel_values), args=arguments(tmp_path / "run"), teacher=str(tmp_path / "resnet"))
    assert 0 < output.training_loss < float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_mean": [0.4] * 3}, r"differ in image_mean: \[0.5, 0.5, 0.5\] and \[0.4, 0.4, 0.4\]"),
        ({"do_normalize": False}, "differ in do_normalize: True and False"),
        ({"size": {"height": 48, "width": 48}}, r"differ in size: \(32, 32\) and \(48, 48\)"),
    ],
)
def test_teacher_that_sees_other_pixels_is_refused(change, message, source, image_processor, tmp_path):
    source.save_pretrained(tmp_path)
    settings = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    DeiTImageProcessorPil(**(settings | change)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_teacher(tmp_path, convert(source), image_processor)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: build_source("ViTForImageClassification", num_labels=7), "teacher has 7 labels, the student 5"),
        (
            lambda: build_source("ViTForImageClassification", image_size=48),
            "reads images of 48 pixels, the student of",
        ),
        (lambda: build_source("ViTModel"), "ViTModel has no classifier"),
    ],
)
def test_teacher_of_another_task_is_refused(teacher, message, source):
    with pytest.raises(ValueError, match=message):
        load_teacher(teacher(), convert(source), None)


def test_teacher_without_a_trained_classifier_is_refused(tmp_path):
    build_source("ViTModel", num_labels=5).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no weights for classifier\.bias, classifier\.weight, so it cannot teach"):
        load_teacher(tmp_path, convert(build_source("ViTForImageClassification")), None)
    with pytest.raises(ValueError, match=r"There is no folder \./dens"):
        load_teacher("./dens", convert(build_source("ViTForImageClassification")), None)


def test_labels_are_compared_by_name_where_both_have_names():
    def named(*names):
        return build_source("ViTForImageClassification", id2label=dict(enumerate(names)))

    student = convert(named("cat", "dog"))
    load_teacher(named("cat", "dog"), student, None)
    load_teacher(build_source("ViTForImageClassification", num_labels=2), student, None)  # LABEL_0, LABEL_1
    with pytest.raises(ValueError, match="Label 0 is 'cat' to the student and 'dog' to the teacher"):
        load_teacher(named("dog", "cat"), student, None)


def test_a_teacher_is_named_where_none_is_at_hand(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    with pytest.raises(ValueError, match="Name a teacher: teacher= a folder, a Hub id"):
        pruner.finetune(pairs(pixel_values), args=arguments(tmp_path), distillation=DistillationConfig())
    with pytest.raises(TypeError, match="A teacher is a name or a loaded image classifier, got Linear"):
        pruner.finetune(pairs(pixel_values), args=arguments(tmp_path), teacher=torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "firm"}, "kind must be one of 'soft', 'hard', got 'firm'"),
        ({"teacher_dtype": "half"}, "teacher_dtype must be one of 'student', 'own'"),
        ({"temperature": 0}, "temperature must be a positive number, got 0"),
        ({"weight": 0.0}, r"weight must be in \(0, 1\], got 0.0. Without a teacher"),
        ({"weight": 1.5}, r"got 1.5"),
    ],
)
def test_values_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**options)


def test_images_are_prepared_once_for_both(source, image_processor, tmp_path):
    """Raw images go through the student's processor; the teacher gets the same pixel values."""
    pixels = torch.randint(256, (40, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    image = Image.fromarray(pixels)
    seen = {}
    teacher = teacher_of()
    pruner = SNPPruner.from_pretrained(source, image_processor=image_processor)
    trainer = build_trainer(
        pruner.model,
        arguments(tmp_path, max_steps=1),
        [(image, 0)] * 2,
        image_processor=image_processor,
        distillation=DistillationConfig(),
        teacher=teacher,
    )
    trainer.teacher.model.register_forward_pre_hook(lambda module, given: seen.setdefault("pixels", given[0]))
    trainer.train()
    torch.testing.assert_close(
        seen["pixels"][0], image_processor(images=image, return_tensors="pt")["pixel_values"][0]
    )

"""What every family of the registry keeps once it is pruned: saved, loaded anywhere, exported, carded, trained."""

import json
import os

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.drawing import can_draw
from optimum_snp.publishing import card
from optimum_snp.publishing.attention import attention_maps, heads_of_maps
from optimum_snp.publishing.report import write_report
from optimum_snp.structure import architecture_of, as_pair, block_sizes, input_name, stream_widths
from tests.families.cases import CASES, IMAGES, PARAMS, SPECTROGRAMS, first_of_each_family
from tests.helpers import prunable, run_python
from tests.hub_server import HubServer
from tests.test_remote_code import JOB, PYTHONS


def pairs_of(case):
    """What it reads, with labels."""
    return [(image, index % 5) for index, image in enumerate(case.images)]


def slug(case):
    return str(case).replace(" ", "-")


def outputs_of(model, images):
    """All outputs by name, as `tests/remote_code_job.py` names them."""
    with torch.inference_mode():
        outputs = model(images)
    tensors = {}
    for name, value in outputs.items():
        parts = value if isinstance(value, tuple) else (value,)
        tensors |= {f"{name}.{index}": part.contiguous() for index, part in enumerate(parts)}
    return tensors


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every case pruned in all of its parts, and the folder of a Hub that holds them."""
    folder, pruners = tmp_path_factory.mktemp("hub") / "me", {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "can_draw", lambda: False)  # pictures take longer than all else
        for case in CASES:
            pruner = case.calibrated.copy()
            pruner.prune(SNPConfig(**{**case.shares()["whole"], "mlp_sparsity": 0.4}))
            pruner.model.set_attn_implementation("sdpa")  # what a loaded model runs on
            pruner.save_pretrained(folder / slug(case))
            pruners[str(case)] = pruner
    return pruners, folder


@pytest.fixture(scope="module", params=PARAMS)
def case(request):
    return request.param


def test_loaded_models_give_the_same_bits(case, saved):
    pruners, folder = saved
    pruner = pruners[str(case)]
    loaded = SNPPruner.from_pretrained(folder / slug(case))
    assert type(loaded.model) is case.family.source_classes[case.class_name]
    assert loaded.pruning_plan == pruner.pruning_plan
    assert_same_bits(outputs_of(loaded.model, case.images), outputs_of(pruner.model, case.images))


@pytest.fixture(scope="module", params=PYTHONS)
def elsewhere(request, saved, tmp_path_factory):
    """What one process without this package computed with all of the models; a traceback where it failed."""
    _, repositories = saved
    folder = tmp_path_factory.mktemp("elsewhere")
    jobs = {slug(case): ("outputs", f"me/{slug(case)}", input_name(case.model.config)) for case in CASES}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    save_file({"pixel_values": IMAGES, "input_values": SPECTROGRAMS}, folder / "images.safetensors")
    with HubServer(repositories.parent) as hub:
        environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_ENDPOINT": hub.url}
        run_python(JOB.read_text(), folder, python=request.param, env=environment, cwd=folder)
    failed = json.loads((folder / "results.json").read_text())
    return {name: failed.get(name) or load_file(folder / f"{name}.safetensors") for name in jobs}


def test_models_give_the_same_bits_without_this_package(saved, elsewhere):
    for case in CASES:
        assert not isinstance(elsewhere[slug(case)], str), f"{case}: {elsewhere[slug(case)]}"
        assert_same_bits(elsewhere[slug(case)], outputs_of(saved[0][str(case)].model, case.images))


def test_cards_name_the_family(case, saved):
    pruners, folder = saved
    config = pruners[str(case)].model.config
    title = case.family.title_of(config, config._name_or_path)
    written = ModelCard.load(folder / slug(case) / "README.md")
    assert written.data.tags[-1] == title.lower()
    assert f"# Pruned {title}" in written.text
    task = "image-classification" if case.has_classifier else "image-feature-extraction"
    if case.family.title == "AST":
        task = "audio-classification" if case.has_classifier else "feature-extraction"
    if case.class_name in ("CLIPModel", "MetaClip2Model", "SiglipModel"):
        task = "zero-shot-image-classification"
    assert written.data.pipeline_tag == task
    usage = written.text.split("```python\n")[1].split("```")[0]
    assert f"{pruners[str(case)].model._auto_class}.from_pretrained(name, trust_remote_code=True)" in usage


def test_attention_maps_are_pictures_of_all_that_is_left(case, saved):
    pruner = saved[0][str(case)]
    model, config = pruner.model, pruner.model.config
    positions = architecture_of(config).blocks_with_maps(config)
    found = attention_maps(model, case.images[:2], list(range(len(positions))))
    heads = heads_of_maps(pruner.record)
    height, width = (32 // size for size in as_pair(config.patch_size))
    if case.family.title == "AST":  # its patches overlap
        height, width = config.grid
    for position, (maps, block) in enumerate(zip(found, positions, strict=True)):
        assert maps.maps.shape[:2] == (2, block_sizes(config)[block]["num_attention_heads"])
        assert len(list(heads.values())[position]) == maps.maps.shape[1]
        assert maps.maps.shape[2] <= height and maps.maps.shape[3] <= width
        assert maps.maps.min() >= 0 and maps.maps.max() <= 1
        assert (maps.maps.flatten(2).max(-1).values > maps.maps.flatten(2).min(-1).values).all()


@pytest.mark.parametrize("case", first_of_each_family(CASES))
def test_a_report_shows_them_side_by_side(case, saved, tmp_path):
    pruners = {"dense": case.calibrated, "pruned": saved[0][str(case)]}
    records = {name: pruner.record for name, pruner in pruners.items()}
    images = case.images
    if case.family.title == "AST":
        with pytest.raises(ValueError, match="The model reads sounds"):
            write_report(tmp_path / "report", records, original="dense", images=images, num_images=1)
        images = None
    write_report(tmp_path / "report", records, original="dense", images=images, num_images=1)
    page = (tmp_path / "report" / "report.html").read_text()
    assert ">dense<" in page and ">pruned<" in page
    pictures = list((tmp_path / "report").rglob("*.png"))
    assert bool(pictures) == can_draw()


@pytest.mark.parametrize("case", first_of_each_family(CASES))
def test_exported_models_compute_the_same(case, tmp_path):
    """As few blocks as can be, since exporting takes most of a second for each; exporting compares with PyTorch."""
    pruner = case.calibrated.copy()
    config = case.model.config
    least = len(block_sizes(config)) - len(stream_widths(config))
    shares = prunable(config, qk_sparsity=0.5, v_sparsity=0.3, mlp_sparsity=0.5, hidden_sparsity=0.2)
    pruner.prune(SNPConfig(**shares, dropped_blocks=least))
    exported = pruner.export(tmp_path / "out", calibration_dataset=case.images)
    assert exported.check.num_images == len(case.images)
    assert 0 < exported.check.relative_error < 1e-5


@pytest.mark.parametrize("case", first_of_each_family(CASES))
def test_statistics_are_saved_and_loaded(case, tmp_path):
    case.calibrated.statistics.save(tmp_path / "statistics")
    pruner = SNPPruner.from_pretrained(case.source(attn_implementation="eager"))
    pruner.load_statistics(tmp_path / "statistics")
    config = SNPConfig(target_flops=0.5)
    assert pruner.plan(config) == case.calibrated.plan(config)


@pytest.mark.parametrize("case", first_of_each_family([case for case in CASES if case.has_classifier]))
def test_classifiers_are_trained(case, saved, tmp_path):
    pruner = saved[0][str(case)].copy()
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    args = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=6, learning_rate=1e-2, report_to="none", use_cpu=True,
        save_strategy="no", dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    pruner.finetune(pairs_of(case), args=args)
    assert all(not torch.equal(weight, before[name]) for name, weight in pruner.model.named_parameters())
    assert_same_bits(saved[0][str(case)].model.state_dict(), before)  # a copy was trained
    assert pruner.evaluate(pairs_of(case))["top5_accuracy"] == 1.0


@pytest.mark.parametrize("case", [case for case in CASES if not case.has_classifier and not case.variant], ids=str)
def test_what_has_no_classifier_is_not_trained(case, tmp_path):
    with pytest.raises(TypeError, match="has no classifier to train or evaluate"):
        case.calibrated.copy().finetune(
            pairs_of(case), args=TrainingArguments(tmp_path, use_cpu=True, report_to="none")
        )


def test_sources_are_loaded_by_their_class(case, tmp_path):
    source = case.source(attn_implementation="eager")
    source.save_pretrained(tmp_path)
    pruner = SNPPruner.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(source) is getattr(transformers, case.class_name)
    assert_same_bits(outputs_of(pruner.model, case.images), outputs_of(case.model, case.images))

"""Numbers belong to the weights that they were measured on."""

import json

import datasets
import pytest
import torch
from transformers import TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.benchmarking import machine_name
from optimum_snp.publishing.recording import identify_dataset
from optimum_snp.record.measurements import Accuracy, Measurements, Stage
from optimum_snp.structure.costs import count_parameters
from tests.helpers import build_source


CONFIG = SNPConfig(mlp_sparsity=0.5, qk_sparsity=0.5)


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def stages(measurements):
    return [(number.stage.step, number.stage.name) for number in measurements.accuracies]


def train(pruner, pixel_values, folder):
    args = TrainingArguments(
        folder, num_train_epochs=1, save_strategy="no", report_to="none", use_cpu=True, dataloader_pin_memory=False
    )
    pruner.finetune(pairs(pixel_values), args=args)


def saved(pruner, folder):
    pruner.save_pretrained(folder)
    return Measurements.load(folder / "snp_measurements.json")


def test_every_stage_is_recorded(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    dense = pruner.evaluate(pairs(pixel_values))
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    pruner.evaluate(pairs(pixel_values))
    train(pruner, pixel_values, tmp_path / "run")
    pruner.evaluate(pairs(pixel_values))
    measurements = saved(pruner, tmp_path / "model")
    assert stages(measurements) == [(0, "dense"), (1, "pruned"), (1, "fine-tuned")]
    assert measurements.accuracies[0].accuracy == dense["accuracy"]
    assert {number.num_images for number in measurements.accuracies} == {6}
    assert measurements.calibration_images == 6
    assert SNPPruner.from_pretrained(tmp_path / "model").measurements == measurements


def test_training_leaves_the_old_accuracy_to_the_old_weights(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    pruner.evaluate(pairs(pixel_values))
    train(pruner, pixel_values, tmp_path / "run")
    first = saved(pruner, tmp_path / "model")
    assert first.stage == Stage(1, "fine-tuned")
    assert stages(first) == [(1, "pruned")]  # which is true, and says nothing of the fine-tuned weights
    pruner.evaluate(pairs(pixel_values))
    train(pruner, pixel_values, tmp_path / "run")
    assert stages(saved(pruner, tmp_path / "again")) == [(1, "pruned")]


def test_weights_changed_by_hand_take_their_numbers_with_them(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.evaluate(pairs(pixel_values))
    assert stages(saved(pruner, tmp_path / "before")) == [(0, "dense")]
    with torch.no_grad():
        pruner.model.classifier.bias += 1
    assert stages(saved(pruner, tmp_path / "after")) == []
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    assert stages(saved(pruner, tmp_path / "pruned")) == []


def test_training_the_dense_model_leaves_it_dense(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    train(pruner, pixel_values, tmp_path / "run")
    assert pruner.measurements.stage == Stage(0, "dense")


def test_a_second_step_counts_on(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    pruner.evaluate(pairs(pixel_values))
    pruner.save_pretrained(tmp_path / "model")
    again = SNPPruner.from_pretrained(tmp_path / "model")
    again.prune(CONFIG, calibration_dataset=pixel_values)
    assert again.measurements.spectra == pruner.measurements.spectra  # of the dense model
    again.evaluate(pairs(pixel_values))
    assert stages(again.measurements) == [(1, "pruned"), (2, "pruned")]


def test_a_second_measurement_replaces_the_first():
    measurements = Measurements()
    for accuracy in (0.5, 0.6):
        measurements.add(Accuracy(Stage(), "w", accuracy, 1.0, num_images=10, dataset="digits"))
    measurements.add(Accuracy(Stage(), "w", 0.7, 1.0, num_images=20, dataset="digits"))
    assert [number.accuracy for number in measurements.accuracies] == [0.6, 0.7]


def test_a_plan_without_measurements_says_how_often_it_was_pruned(source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "snp_measurements.json").unlink()
    assert SNPPruner.from_pretrained(tmp_path / "model").measurements == Measurements(Stage(1, "pruned"))


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"stage": {"steps": 1}}'])
def test_broken_files_are_refused(text, tmp_path):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=r"file.json holds no measurements that this version can read"):
        Measurements.load(tmp_path / "file.json")


def test_spectra_are_those_of_the_attention_scores(source, pixel_values):
    """Against the singular values of every full attention map, with its bias."""
    pruner = SNPPruner.from_pretrained(source)
    attention = pruner.model.base_model.layers[1].attention
    inputs = []
    handle = attention.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    with torch.inference_mode():
        pruner.model(pixel_values)
        handle.remove()
        query, key = (
            projection(inputs[0]).unflatten(-1, (4, 12)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj)
        )
        values = torch.linalg.svdvals(query.double() @ key.double().mT)[..., :12]
    expected = values.square().mean(0).sqrt()
    pruner.prune(CONFIG, calibration_dataset=pixel_values)
    spectra = torch.tensor(pruner.measurements.spectra[1], dtype=torch.float64)
    torch.testing.assert_close(spectra, expected / expected[:, :1], rtol=6e-3, atol=1e-9)


def test_latency_of_model_and_original(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.9), calibration_dataset=pixel_values)
    source.train()
    seconds = pruner.measure_latency(source, batch_size=2, num_runs=3)
    assert source.training  # nothing of the caller's is changed
    original, model = sorted(pruner.measurements.latencies, key=lambda number: number.stage.step)
    assert (original.stage, model.stage) == (Stage(0, "dense"), Stage(1, "pruned"))
    assert (original.seconds, model.seconds) == (seconds["original"], seconds["model"])
    assert original.conditions == model.conditions
    assert (model.batch_size, model.threads, model.dtype) == (2, torch.get_num_threads(), "float32")
    assert model.machine == machine_name(torch.device("cpu"))
    assert model.torch == torch.__version__


@pytest.mark.parametrize(("dense", "warns"), [(100.0, True), (1.4, False), (0.5, False)])
def test_a_speed_up_beyond_the_flops_is_a_warning(dense, warns, source, pixel_values, monkeypatch, caplog):
    pruner = SNPPruner.from_pretrained(source)
    plan = pruner.prune(SNPConfig(target_flops=0.5), calibration_dataset=pixel_values) and pruner.pruning_plan
    seconds = {"original": dense, "model": 1.0}
    monkeypatch.setattr("optimum_snp.publishing.recording.measure_latency", lambda *_, **__: seconds)
    pruner.measure_latency(source)
    ratio = plan.macs_before / plan.macs_after
    expected = f"The pruned model was measured 100 times as fast, with FLOPs that allow {ratio:.3g} times"
    found = [message for message in caplog.messages if "times as fast" in message]
    assert [message.startswith(expected) for message in found] == [True] * warns


def test_latency_of_another_original_is_refused(source, pixel_values):
    pruner = SNPPruner.from_pretrained(source)
    with pytest.raises(ValueError, match="The model is not pruned, so there is no original"):
        pruner.measure_latency(source)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    other = build_source("ViTForImageClassification", intermediate_size=64)
    with pytest.raises(ValueError, match=f"the model that was pruned had {count_parameters(source)}"):
        pruner.measure_latency(other)


def test_data_sets_are_called_by_what_is_known(image_folder):
    nothing = {"dataset": None, "dataset_id": None, "split": None}
    assert identify_dataset([1, 2]) == nothing
    assert identify_dataset([1, 2], "my digits") == {**nothing, "dataset": "my digits"}
    assert identify_dataset(image_folder) == {**nothing, "dataset": "images"}
    assert identify_dataset(datasets.Dataset.from_dict({"a": [1]})) == nothing
    folder = datasets.load_dataset("imagefolder", data_dir=str(image_folder), split="train")
    assert identify_dataset(folder) == nothing  # its name and its split are those of the loader


def test_data_sets_of_the_hub_are_known():
    info = datasets.DatasetInfo(dataset_name="mnist", builder_name="parquet")
    info.download_checksums = {"hf://datasets/ylecun/mnist@77f3279/mnist/test.parquet": {}}
    dataset = datasets.Dataset.from_dict({"a": [1]}, info=info, split=datasets.Split.TEST)
    expected = {"dataset": "ylecun/mnist", "dataset_id": "ylecun/mnist", "split": "test"}
    assert identify_dataset(dataset) == expected
    assert identify_dataset(dataset, "MNIST") == {**expected, "dataset": "MNIST"}


def test_fields_of_a_later_version_are_left_out_with_a_warning(tmp_path, caplog):
    path = tmp_path / "snp_measurements.json"
    measurements = Measurements()
    measurements.add(Accuracy(Stage(), "w", 0.5, 0.9, 10, dataset="digits"))
    measurements.save(path)
    values = json.loads(path.read_text())
    values["accuracies"][0]["f1"] = 0.4
    values["stage"]["date"] = "today"
    path.write_text(json.dumps(values))
    assert Measurements.load(path) == measurements
    assert "accuracies has fields that this version does not know: f1" in caplog.text
    assert "stage has fields that this version does not know: date" in caplog.text

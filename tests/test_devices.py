"""A model is where the user put it before and after every verb; other devices are waited for and named."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from optimum_snp import SNPConfig, SNPPruner, devices
from optimum_snp.benchmarking.machine import machine_name
from optimum_snp.benchmarking.stopwatch import fair_stopwatch
from optimum_snp.devices import put_back
from optimum_snp.reconstruction import sequence
from tests.helpers import run_python


JOB = Path(__file__).with_name("second_device_job.py")


class Moving(nn.Linear):
    """A layer that knows where it is asked to be, on a machine without other places."""

    def __init__(self):
        super().__init__(1, 1)
        self.device = "here"

    def to(self, device):
        self.device = device
        return self


def test_a_model_is_put_back_also_after_an_error():
    model = Moving().eval()
    with pytest.raises(RuntimeError), put_back(model):
        model.to("there").train()
        raise RuntimeError
    assert (model.device, model.training) == ("here", False)


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


def test_verbs_leave_the_model_where_it_is(device, source, pixel_values, tmp_path):
    pruner = SNPPruner.from_pretrained(source.to(device))
    args = TrainingArguments(tmp_path, max_steps=1, report_to="none", save_strategy="no", use_cpu=device == "cpu")
    verbs = {
        "calibrate": lambda: pruner.calibrate(pixel_values),
        "prune": lambda: pruner.prune(SNPConfig(mlp_sparsity=0.5)),
        "evaluate": lambda: pruner.evaluate(pairs(pixel_values)),
        "finetune": lambda: pruner.finetune(pairs(pixel_values), args=args),
        "measure_latency": lambda: pruner.measure_latency(num_runs=1),
        "save_pretrained": lambda: pruner.save_pretrained(tmp_path / "model"),
    }
    for name, verb in verbs.items():
        verb()
        assert pruner.model.device.type == device, name
        assert all(weight.device.type == device for weight in pruner.model.state_dict().values()), name
        assert not pruner.model.training, name


@pytest.mark.parametrize("verb", ["evaluate", "finetune"])
def test_trainers_that_move_the_model_are_followed(verb, source, pixel_values, tmp_path, monkeypatch):
    """As on a machine with a GPU, where a Trainer takes the model there and leaves it there."""
    pruner = SNPPruner.from_pretrained(source)
    to, places = type(pruner.model).to, []
    monkeypatch.setattr(type(pruner.model), "to", lambda model, *where, **_: places.append(where[:1]) or to(model))
    run = Trainer.predict if verb == "evaluate" else Trainer.train

    def run_elsewhere(trainer, *arguments, **options):
        trainer.model.to("elsewhere")
        return run(trainer, *arguments, **options)

    monkeypatch.setattr(Trainer, run.__name__, run_elsewhere)
    args = TrainingArguments(tmp_path, max_steps=1, report_to="none", save_strategy="no", use_cpu=True)
    if verb == "evaluate":
        pruner.evaluate(pairs(pixel_values))
    else:
        pruner.finetune(pairs(pixel_values), args=args)
    assert ("elsewhere",) in places
    assert places[-1] == (torch.device("cpu"),)


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_other_devices_are_waited_for_and_named(kind, monkeypatch):
    events = []
    module = SimpleNamespace(synchronize=lambda: events.append("waited"), get_device_name=lambda device: "Ponte")
    if kind == "mps":
        del module.get_device_name
    monkeypatch.setattr(devices.torch, "get_device_module", lambda device: module)
    fair_stopwatch(torch.device(kind), 1)(lambda: events.append("called"))
    assert events == ["waited", "called", "waited"]
    cpu = machine_name(torch.device("cpu"))
    assert machine_name(torch.device(kind)) == ("Ponte" if kind == "xpu" else f"mps of {cpu}")


@pytest.mark.parametrize(("num_bytes", "expected"), [(30, True), (31, False)])
def test_room_is_a_quarter_of_what_is_free_or_held_unused(num_bytes, expected, monkeypatch):
    module = SimpleNamespace(
        mem_get_info=lambda device: (100, 1000), memory_reserved=lambda device: 50, memory_allocated=lambda device: 30
    )
    monkeypatch.setattr(devices.torch, "get_device_module", lambda device: module)
    places = {kind: devices.place_with_room(torch.device(kind), num_bytes).type for kind in ("xpu", "mps", "cpu")}
    assert places == {"xpu": "xpu" if expected else "cpu", "mps": "cpu", "cpu": "cpu"}


@pytest.mark.parametrize("expected", ["meta", "cpu"])
def test_reconstruction_keeps_its_streams_where_there_is_room(expected, source, monkeypatch):
    """Those of both networks, three that a block leaves at most, and its neurons."""
    asked = []
    place = torch.device(expected)
    monkeypatch.setattr(sequence, "place_with_room", lambda device, num_bytes: asked.append(num_bytes) or place)
    model = SNPPruner(source).model
    run = sequence._Reconstruction(model, model, [0, 1, 2], {}, torch.device("meta"))
    run.dense_streams, run.pruned_streams = ([torch.zeros(2, 17, 32)] for _ in range(2))
    run._choose_place()
    ratio = model.config.block_configs[0]["intermediate_size"] / model.config.hidden_size
    assert asked == [(5 + ratio) * 2 * 17 * 32 * 4]
    assert {stream.device.type for stream in (*run.dense_streams, *run.pruned_streams)} == {expected}


def test_no_tensor_is_made_on_the_wrong_device():
    """Both architectures, its loss and the hooks of calibration, on a second device type."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    printed = run_python(JOB.read_text(), env=environment)
    found = json.loads(printed.splitlines()[-1])
    assert found.pop("tells devices apart")
    assert len(found) == 4
    for class_name, ran in found.items():
        expected = {"forward", "moments in cpu", "moments in other"} | (
            {"loss"} if class_name.endswith("Classification") else set()
        )
        assert set(ran) == expected, class_name

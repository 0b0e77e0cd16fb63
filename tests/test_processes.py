"""Several processes of one job find what one finds, and end together."""

import json

import pytest
import torch

from optimum_snp import SNPPruner, processes
from optimum_snp.calibration import model_fingerprint
from optimum_snp.families import convert
from optimum_snp.processes import process_state, run_on_main_process, tensors_of_main_process
from tests import distributed_job
from tests.helpers import build_source, torchrun
from tests.hub_repos import User
from tests.hub_server import HubServer


def test_one_process_gives_the_result_and_raises_the_error():
    assert run_on_main_process(lambda: {"a": [1]}) == {"a": [1]}
    with pytest.raises(KeyError, match="b"):
        run_on_main_process(lambda: {"a": [1]}["b"])


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_whoever_leaves_tells_the_others(end, monkeypatch):
    """Ctrl-C on the main process would leave the others waiting for half an hour."""
    sent = []
    monkeypatch.setattr(processes, "broadcast_object_list", lambda values: sent.append(values) or values)

    def leave():
        raise end("by Ctrl-C")

    with pytest.raises(end):
        run_on_main_process(leave)
    assert sent == [[None, f"{end.__name__}: by Ctrl-C"]]


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started, but Accelerate was set up for 1"):
        process_state()


def test_one_process_keeps_its_tensors():
    tensors = {"a": torch.arange(3)}
    assert tensors_of_main_process(lambda: tensors)["a"] is tensors["a"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    return distributed_job.run(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    """What each of several processes finds, their folder, and the Hub that they pushed to."""
    folder = tmp_path_factory.mktemp("together")
    with HubServer(tokens={"hf_mine": User("me")}) as hub:
        environment = hub.environment(folder / "cache", token="hf_mine")
        process = torchrun(request.param, distributed_job.__file__, folder, **environment)
    assert process.returncode == 0, process.stderr
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]
    assert all(one["processes"] == request.param for one in found)
    return found, folder, hub


@pytest.mark.parametrize(("architecture", "num_images"), [("swin", 70), ("deit", 5)])
def test_same_plan_and_same_weights(alone, together, architecture, num_images):
    expected = alone[architecture]
    assert expected["images"] == num_images
    for found in together[0]:
        for name in ("images", "plan"):
            assert found[architecture][name] == expected[name]
        # By the order of float64 additions they may differ from those of one process, but not among themselves.
        assert found[architecture]["weights"] == together[0][0][architecture]["weights"]
        for name in ("sensitivities", "logits"):
            assert found[architecture][name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4)


def test_same_accuracy_to_the_last_image(alone, together):
    count = distributed_job.NUM_EVALUATED
    model = convert(build_source("ViTForImageClassification"))
    with torch.inference_mode():
        logits = model(distributed_job.IMAGES[:count]).logits
    accuracy = (logits.argmax(-1) == torch.arange(count) % 5).float().mean().item()
    expected = [{"accuracy": pytest.approx(accuracy), "top5_accuracy": 1.0}, count]
    for found in (alone, *together[0]):
        assert list(found["evaluation"]["dataset"]) == expected
        assert list(found["evaluation"]["stream"]) == expected


@pytest.mark.parametrize("kind", ["dataset", "stream"])
def test_each_process_names_its_share_of_the_images(alone, together, kind):
    metrics, num_images, passed = alone["zero_shot"][kind]
    assert num_images == passed == distributed_job.NUM_EVALUATED
    others = [found["zero_shot"][kind] for found in together[0]]
    assert all(list(found[:2]) == [metrics, num_images] for found in others)
    assert sum(found[2] for found in others) == num_images
    assert all(0 < found[2] < num_images for found in others)


def test_same_share_of_tokens(alone, together):
    assert any(block["after"].get("merged_tokens") for block in alone["tokens"]["blocks"])
    assert all(found["tokens"] == alone["tokens"] for found in together[0])


def test_same_training(alone, together):
    """Eight images a step each time, so that the losses differ by the order of additions alone."""
    first = together[0][0]["training"]
    assert first["losses"] == pytest.approx(alone["training"]["losses"], rel=1e-3)
    assert first["accuracy"] == alone["training"]["accuracy"]
    assert all(found["training"] == first for found in together[0])


def test_unlike_models_are_refused(together):
    for found in together[0]:
        assert found["unlike"].startswith("ValueError: The processes of this job hold models of different weights.")


def test_one_pushes_and_its_error_ends_all(together):
    found, _, hub = together
    repo = hub.repos["me/small"]
    assert len(repo.commits) == 2
    for one in found:
        assert one["url"].endswith(f"/me/small/commit/{repo.resolve('main')}")
    assert found[0]["error"] == "KeyError: 'missing'"
    assert found[0]["bad_token"].startswith("PermissionError: The Hub does not accept the token.")
    for one in found[1:]:
        assert one["error"] == "RuntimeError: The main process failed with KeyError: 'missing'"
        assert one["bad_token"].startswith("RuntimeError: The main process failed with PermissionError: The Hub does")


def test_shards_train_like_whole_models(together):
    """FSDP: the same losses, the whole model on every process, and checkpoints that load anywhere."""
    found, folder, _ = together
    if len(found) > 2:
        pytest.skip("two processes have shards enough")
    for one in found:
        assert one["fsdp"]["losses"] == pytest.approx(one["training"]["losses"], rel=1e-3)
        assert one["fsdp"]["kind"] == "SNPViTForImageClassification"
        assert one["fsdp"] == found[0]["fsdp"]
    names = {path.name for path in (folder / "fsdp" / "checkpoint-12").iterdir()}
    assert {"modeling_snp_vit.py", "configuration_snp_vit.py", "pruning_plan.json", "rng_state_1.pth"} <= names
    assert not any(name.startswith("_fsdp") for name in names)
    pruner = SNPPruner.from_pretrained(folder / "fsdp" / "checkpoint-12")
    assert model_fingerprint(pruner.model) == found[0]["fsdp"]["weights"]
    assert pruner.pruning_plan.config == distributed_job.SHARES


BAD_IMAGE = """
import os
import torch
from optimum_snp import SNPPruner
from tests.helpers import build_source

images = list(torch.randn(8, 3, 32, 32))
if os.environ["RANK"] == "1":
    images = [image * float("nan") for image in images]
SNPPruner(build_source("ViTForImageClassification")).calibrate(images, num_samples=8, batch_size=2)
"""


def test_an_error_in_one_process_ends_all(tmp_path):
    (tmp_path / "job.py").write_text(BAD_IMAGE)
    process = torchrun(2, tmp_path / "job.py", timeout=60)
    assert process.returncode != 0
    assert process.stderr.count("ItemError: Image 0 of the dataset has pixel values that are NaN or infinite") == 1

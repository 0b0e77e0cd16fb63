"""A Hub that fails at any request: no history is lost in silence, and a push says whether anything arrived."""

import itertools
import logging

import pytest
import safetensors.torch
from huggingface_hub import constants

from optimum_snp import SNPConfig, SNPPruner
from tests.hub_repos import Blob, Commit
from tests.hub_server import _Handler


FAULTS = [503, 429, "html", "slow", "break"]


@pytest.fixture
def pruner(source, pixel_values, image_processor, without_matplotlib):
    """Without the pictures of its card, which take most of the time of a push."""
    without_matplotlib()
    pruner = SNPPruner(source, image_processor)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    return pruner


@pytest.fixture
def impatient(hub, monkeypatch, tmp_path):
    """The Hub, of which no answer is waited for for long or again, and a cache that is empty."""
    hub.patience = 0.4
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.2)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    return hub


def load(tmp_path):
    return SNPPruner.from_pretrained("me/small", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["pruning_plan.json", "snp_measurements.json", "preprocessor_config.json"])
def test_history_that_the_hub_does_not_give_is_not_missing(fault, name, pruner, impatient, tmp_path):
    pruner.push_to_hub("me/small")
    impatient.answer_with(fault, rf"/resolve/.*{name}", times=99)
    with pytest.raises((OSError, ValueError), match=name):
        load(tmp_path)
    impatient.answer_with(fault, "", times=0)
    again = load(tmp_path)
    assert again.pruning_plan == pruner.pruning_plan
    assert again.image_processor is not None


def test_a_file_that_is_not_there_is_missing(source, impatient, tmp_path):
    SNPPruner(source).push_to_hub("me/small")  # no plan, no image processor
    for _ in range(2):  # the second time what the cache knows
        loaded = load(tmp_path)
        assert loaded.pruning_plan is None and loaded.image_processor is None
    impatient.answer_with(503, "pruning_plan", times=99)
    with pytest.raises(ConnectionError, match=r"does not say whether me/small has a pruning_plan.json"):
        SNPPruner.from_pretrained("me/small", cache_dir=tmp_path / "other")


@pytest.mark.parametrize("fault", FAULTS)
def test_no_model_fails_to_load_over_its_card(fault, pruner, impatient, tmp_path, caplog):
    pruner.push_to_hub("me/small")
    impatient.answer_with(fault, "README.md", times=99)
    assert load(tmp_path).pruning_plan == pruner.pruning_plan
    assert "The card of me/small cannot be read" in caplog.text


@pytest.mark.parametrize("fault", [503, "html", "break"])
@pytest.mark.parametrize("request_", ["GET /api/whoami", "GET /api/models", "POST .*preupload", "POST .*commit"])
def test_a_push_says_whether_it_arrived(fault, request_, pruner, impatient, caplog):
    caplog.set_level(logging.CRITICAL)
    pruner.push_to_hub("me/small")
    before = impatient.repos["me/small"].resolve("main")
    pruner.model.classifier.bias.data += 1  # of equal files the client makes no commit
    impatient.answer_with(fault, request_, times=99)
    with pytest.raises(OSError) as failure:
        pruner.push_to_hub("me/small")
    said = str(failure.value)
    assert "Nothing was pushed" in said or "Whether it arrived cannot be told" in said
    assert impatient.repos["me/small"].resolve("main") == before
    if fault == "html":
        assert "What answered is not the Hub" in said


def test_a_push_whose_answer_is_lost_is_found(pruner, impatient, monkeypatch):
    """The commit is made; what comes back is the page of a network that wants one to sign in again."""
    pruner.push_to_hub("me/small")
    before = impatient.repos["me/small"].resolve("main")
    pruner.model.classifier.bias.data += 1
    send_json = _Handler.send_json

    def send(handler, content):
        if isinstance(content, dict) and "commitOid" in content:
            return handler.answer_wrongly("html")
        return send_json(handler, content)

    monkeypatch.setattr(_Handler, "send_json", send)
    with pytest.raises(
        ConnectionError, match=r"me/small has a new commit, .*, so that the push seems to have arrived"
    ):
        pruner.push_to_hub("me/small")
    assert impatient.repos["me/small"].resolve("main") != before


def fail_once(hub, fault, number):
    """Lets the request of that number fail, counted from now on."""
    counted = itertools.count()
    hub.fault = lambda request: fault if next(counted) == number else None


@pytest.mark.slow
def test_every_single_request_of_a_load_may_fail(pruner, impatient, tmp_path, caplog):
    """What is loaded is the whole model, with its history; or an error says what is wrong."""
    caplog.set_level(logging.CRITICAL)
    pruner.push_to_hub("me/small")
    impatient.requests.clear()
    SNPPruner.from_pretrained("me/small", cache_dir=tmp_path / "first")
    num_requests, outcomes = len(impatient.requests), set()
    assert num_requests > 5
    for fault in FAULTS:
        for number in range(num_requests):
            fail_once(impatient, fault, number)
            try:
                loaded = SNPPruner.from_pretrained("me/small", cache_dir=tmp_path / f"{fault}-{number}")
            except (OSError, ValueError) as error:
                outcomes.add("error")
                assert str(error)
            else:
                outcomes.add("model")
                assert loaded.pruning_plan == pruner.pruning_plan
                assert loaded.model.classifier.bias.equal(pruner.model.classifier.bias)
    assert outcomes == {"error", "model"}


@pytest.mark.slow
def test_every_single_request_of_a_push_may_fail(pruner, impatient, caplog):
    """What is there afterwards is the old commit or a new one, whole; the old one is never said to be the new."""
    caplog.set_level(logging.CRITICAL)
    pruner.push_to_hub("me/small")
    repo, bias = impatient.repos["me/small"], pruner.model.classifier.bias
    impatient.requests.clear()
    bias.data += 1
    pruner.push_to_hub("me/small")
    num_requests, outcomes = len(impatient.requests), set()
    assert num_requests > 3
    for fault in FAULTS:
        for number in range(num_requests):
            before = repo.resolve("main")
            bias.data += 1
            fail_once(impatient, fault, number)
            try:
                pruner.push_to_hub("me/small")
                outcomes.add("pushed")
                assert repo.resolve("main") != before
            except (OSError, ValueError) as error:
                outcomes.add("error")
                assert str(error)
            if repo.resolve("main") != before:
                head = repo.commits[repo.resolve("main")]
                assert head.parent == before
                assert safetensors.torch.load(head.files["model.safetensors"].data)["classifier.bias"].equal(bias)
    assert outcomes == {"error", "pushed"}


def test_a_card_of_the_repository_that_cannot_be_kept(pruner, impatient):
    pruner.push_to_hub("me/small")
    repo = impatient.repos["me/small"]
    head = repo.commits[repo.resolve("main")]
    repo.add("main", Commit({**head.files, "README.md": Blob("Über".encode("latin-1"))}, "mine", repo.resolve("main")))
    with pytest.raises(ValueError, match=r"README.md is no text in UTF-8"):
        pruner.push_to_hub("me/small")

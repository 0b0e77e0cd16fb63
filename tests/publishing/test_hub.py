"""Pushing to a Hub-compatible server over HTTP: all in one commit, or nothing and a clear error.

The address of the Hub is a constant of its client, so these tests change it; those of tests/test_hub_loading.py run
in processes of their own, which take it from the environment as a user's do.
"""

import json
import socket

import pytest
import torch
from huggingface_hub import ModelCard, constants
from transformers import TrainingArguments

from optimum_snp import PruningPlan, SNPConfig, SNPPruner
from optimum_snp.publishing import hub as publishing_hub
from tests.helpers import build_source
from tests.hub_repos import BRANCH, Blob, Commit, Repo


@pytest.fixture
def pruner(image_processor, pixel_values, without_matplotlib):
    """Without the pictures of its card, which take most of the time of a push."""
    without_matplotlib()
    pruner = SNPPruner(build_source("ViTForImageClassification"), image_processor)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    return pruner


def history(repo, revision=BRANCH):
    """Messages of the commits of a branch, the last first."""
    messages, sha = [], repo.resolve(revision)
    while sha:
        messages.append(repo.commits[sha].message)
        sha = repo.commits[sha].parent
    return messages


def edit(repo, **files):
    """What a person does on the Hub; a name's dots are written as two underscores."""
    blobs = {name.replace("__", "."): Blob(text.encode()) for name, text in files.items()}
    head = repo.resolve(BRANCH)
    repo.add(BRANCH, Commit({**repo.commits[head].files, **blobs}, "by hand", head))


def test_everything_comes_in_one_commit(hub, pruner, tmp_path):
    url = pruner.push_to_hub("me/small", private=True, commit_message="First", tags=["digits"])
    repo = hub.repos["me/small"]
    assert repo.private
    assert history(repo) == ["First", "initial commit"]
    assert url == f"{hub.url}/me/small/commit/{repo.resolve(BRANCH)}"

    pruner.save_pretrained(tmp_path / "model")
    saved = {
        path.relative_to(tmp_path / "model").as_posix(): path.read_bytes()
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    }
    pushed = repo.files()
    assert pushed.pop(".gitattributes")
    card = ModelCard(pushed.pop("README.md").decode())
    assert {"snp", "digits"} <= set(card.data.tags)
    assert "me/small" in card.text
    del saved["README.md"]  # says "this folder"
    assert {"model.safetensors", "modeling_snp_vit.py", "pruning_plan.json", "snp_config.json"} <= set(saved)
    assert pushed == saved


def test_names_without_namespace_are_mine(hub, pruner):
    pruner.push_to_hub("small")
    pruner.push_to_hub("lab/small")
    assert sorted(hub.repos) == ["lab/small", "me/small"]


def test_pushing_again_replaces_the_model_and_keeps_what_people_wrote(hub, pruner, pixel_values):
    pruner.push_to_hub("me/small", max_shard_size="50KB")
    repo = hub.repos["me/small"]
    assert "model-00001-of-00005.safetensors" in repo.files()
    card = repo.files()["README.md"].decode()
    edit(repo, README__md=card + "\nTold by me.\n", notes__txt="mine")

    pruner.prune(SNPConfig(v_sparsity=0.5), calibration_dataset=pixel_values)
    pruner.push_to_hub("me/small")
    files = repo.files()
    assert [name for name in files if "safetensors" in name] == ["model.safetensors"]
    assert files["notes.txt"] == b"mine"
    assert "Told by me." in files["README.md"].decode()
    assert len(PruningPlan.from_dict(json.loads(files["pruning_plan.json"])).steps) == 2
    assert history(repo) == ["Upload model", "by hand", "Upload model", "initial commit"]


def test_an_unchanged_model_makes_no_commit(hub, pruner):
    first = pruner.push_to_hub("me/small")
    assert pruner.push_to_hub("me/small") == first
    assert history(hub.repos["me/small"]) == ["Upload model", "initial commit"]


def test_branches_are_made_from_main(hub, pruner):
    pruner.push_to_hub("me/small")
    repo = hub.repos["me/small"]
    before = repo.files()
    edit(repo, notes__txt="mine")
    pruner.model.classifier.bias.data.zero_()
    pruner.push_to_hub("me/small", revision="second")
    assert repo.files() == {**before, "notes.txt": b"mine"}
    assert history(repo, "second") == ["Upload model", "by hand", "Upload model", "initial commit"]
    assert repo.files("second")["model.safetensors"] != before["model.safetensors"]


def test_pull_request_on_a_repository_of_others(hub, pruner):
    pruner.push_to_hub("you/small", token="hf_other")
    repo = hub.repos["you/small"]
    before = repo.files()
    pruner.model.classifier.bias.data.zero_()
    commit = pruner.push_to_hub("you/small", create_pr=True)
    assert repo.files() == before
    assert commit.pr_url == f"{hub.url}/you/small/discussions/1"
    assert history(repo, "refs/pr/1") == ["Upload model", "Upload model", "initial commit"]


@pytest.mark.parametrize("broken", ["POST .*/commit/", "POST .*/preupload/", "PUT /upload/"])
def test_a_hub_that_dies_in_the_middle_shows_nothing(hub, pruner, broken, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its attempts
    pruner.push_to_hub("me/small")
    before = hub.repos["me/small"].files()
    pruner.model.classifier.bias.data.zero_()
    for repo_id in ("me/small", "me/new"):
        hub.break_off(broken, times=99)
        with pytest.raises(ConnectionError, match="Check the network and HF_ENDPOINT, then push again") as failure:
            pruner.push_to_hub(repo_id)
        assert ("me/new was made for this push and stays" in str(failure.value)) == (repo_id == "me/new")
    assert hub.repos["me/small"].files() == before
    assert list(hub.repos["me/new"].files()) == [".gitattributes"]
    hub.break_off("", times=0)
    pruner.push_to_hub("me/small")
    assert hub.repos["me/small"].files()["model.safetensors"] != before["model.safetensors"]


def test_a_large_file_that_breaks_off_is_sent_again(hub, pruner, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.break_off("PUT /upload/")
    pruner.push_to_hub("me/small")
    assert ("PUT", "/upload/") in [(method, path[:8]) for method, path in hub.requests]
    assert "model.safetensors" in hub.repos["me/small"].files()


PUBLIC = ["me/public", "you/theirs"]


@pytest.mark.parametrize(
    ("repo_id", "options", "error", "message"),
    [
        ("me/../small", {}, ValueError, "in the form 'repo_name' or 'namespace/repo_name'"),
        ("me/sm all", {}, ValueError, "must use alphanumeric chars"),
        ("me/small", {"revision": "0" * 40}, ValueError, "is a commit, which nothing can be added to. Name a branch"),
        ("me/small", {"tags": "digits"}, TypeError, "tags must be a list of tags, got 'digits'"),
        ("me/public", {"private": True}, ValueError, "is there already and public"),
        ("you/none", {"create_pr": True}, ValueError, "There is no repository you/none to open a pull request on"),
        ("you/theirs", {"create_pr": True, "revision": "v2"}, ValueError, "you/theirs has no branch v2"),
        (
            "me/small",
            {"token": "hf_mine\n"},
            ValueError,
            "^token is empty, or has blanks or letters that no token has",
        ),
        ("me/small", {"token": "hf_m\xefne"}, ValueError, "^token is empty, or has blanks or letters that no token"),
        ("me/small", {"token": ""}, ValueError, "^token is empty"),
        ("me/small", {"token": "hf_unknown"}, PermissionError, "does not accept the token. Log in again with"),
        ("me/small", {"token": "hf_reader"}, PermissionError, "The token of me may only read"),
        ("you/small", {}, PermissionError, "may not write to you/small. The namespaces of this token are me, lab;"),
        ("you/theirs", {}, PermissionError, "to a repository of others open a pull request with create_pr=True"),
        ("nobody/small", {}, PermissionError, "The namespaces of this token are me, lab"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_any_work(hub, pruner, repo_id, options, error, message, monkeypatch):
    for public in PUBLIC:
        hub.repos[public] = Repo(public)
        hub.repos[public].add(BRANCH, Commit({}, "initial commit"))
    monkeypatch.setattr(publishing_hub, "write_model", lambda *_, **__: pytest.fail("wrote the model"))
    with pytest.raises(error, match=message):
        pruner.push_to_hub(repo_id, **options)
    assert sorted(hub.repos) == PUBLIC
    assert all(len(repo.commits) == 1 and list(repo.refs) == [BRANCH] for repo in hub.repos.values())


def test_rights_that_only_the_hub_knows(hub, pruner):
    with pytest.raises(PermissionError, match=r"The token may not write to me/small. Give it that right"):
        pruner.push_to_hub("me/small", token="hf_limited")
    assert not hub.repos
    pruner.push_to_hub("me/small")
    pruner.model.classifier.bias.data.zero_()
    with pytest.raises(PermissionError, match=r"The token may not write to me/small. .* Nothing was pushed"):
        pruner.push_to_hub("me/small", token="hf_limited")
    assert history(hub.repos["me/small"]) == ["Upload model", "initial commit"]


def test_without_a_token(hub, pruner, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match=r"needs a token, and there is none. Log in with `hf auth login`"):
        pruner.push_to_hub("me/small")


def test_without_network(pruner, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectionError, match="The Hub cannot be reached"):
        pruner.push_to_hub("me/small", token="hf_mine")


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(hub, pruner, monkeypatch):
    pruner.push_to_hub("me/small")
    repo, write_model = hub.repos["me/small"], publishing_hub.write_model

    def write_slowly(*arguments, **options):
        write_model(*arguments, **options)
        edit(repo, README__md="mine")

    monkeypatch.setattr(publishing_hub, "write_model", write_slowly)
    with pytest.raises(OSError, match=r"was changed by somebody else meanwhile. Push again"):
        pruner.push_to_hub("me/small")
    assert repo.files()["README.md"] == b"mine"


def test_a_model_that_cannot_be_written_makes_no_repository(hub, pruner, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("disk is full")

    monkeypatch.setattr(publishing_hub, "write_model", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        pruner.push_to_hub("me/small")
    assert not hub.repos


def test_no_commit_of_a_training_holds_the_token(hub, pruner, pixel_values, tmp_path):
    args = TrainingArguments(
        tmp_path / "small",
        push_to_hub=True,
        hub_token="hf_mine",
        hub_strategy="checkpoint",
        max_steps=1,
        save_steps=1,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    pruner.finetune([(image, 0) for image in pixel_values], args=args)
    assert args.hub_token == "hf_mine"
    commits = hub.repos["me/small"].commits.values()
    assert any("last-checkpoint/training_args.bin" in commit.files for commit in commits)
    assert not [name for commit in commits for name, blob in commit.files.items() if b"hf_mine" in blob.data]


def test_a_training_that_could_not_push_does_not_start(hub, pruner, pixel_values, tmp_path):
    options = {"push_to_hub": True, "report_to": "none", "use_cpu": True, "dataloader_pin_memory": False}
    args = TrainingArguments(tmp_path / "small", hub_token="hf_reader", **options)
    before = pruner.model.classifier.weight.clone()
    with pytest.raises(PermissionError, match="The token of me may only read"):
        pruner.finetune([(image, 0) for image in pixel_values], args=args)
    assert torch.equal(pruner.model.classifier.weight, before)
    assert not hub.repos

"""`optimum-cli snp push`, and the push of `finetune`."""

import json

import pytest
from huggingface_hub import ModelCard

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands import main
from tests.helpers import build_source


@pytest.fixture
def model(tmp_path, image_processor, pixel_values):
    pruner = SNPPruner(build_source("ViTForImageClassification", num_labels=2), image_processor)
    pruner.prune(SNPConfig(mlp_sparsity=0.5), calibration_dataset=pixel_values)
    pruner.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_push(hub, model, capsys):
    card = model / "README.md"
    card.write_text(card.read_text() + "\nTold by me.\n")
    options = ["--private", "--tag", "one", "--tag", "two", "--commit-message", "First", "--revision", "v1"]
    main(["push", str(model), "small", *options, "--json"])
    repo = hub.repos["me/small"]
    assert json.loads(capsys.readouterr().out) == {
        "repo_id": "me/small",
        "commit_url": f"{hub.url}/me/small/commit/{repo.resolve('v1')}",
        "pull_request_url": None,
    }
    assert repo.private
    assert repo.commits[repo.resolve("v1")].message == "First"
    files = repo.files("v1")
    assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    pushed = ModelCard(files["README.md"].decode())
    assert {"one", "two"} <= set(pushed.data.tags)
    assert "Told by me." in pushed.text

    main(["push", str(model), "me/small", "--create-pr"])
    assert f"Pushed: {hub.url}/me/small/discussions/1" in capsys.readouterr().out


def test_finetune_and_push(hub, model, image_folder, tmp_path, capsys):
    training = ["--epochs", "1", "--train-dataset", str(image_folder), "--eval-dataset", str(image_folder)]
    main(["finetune", str(model), "--output", str(tmp_path / "tuned"), "--push-to-hub", "small", *training, "--json"])
    result = json.loads(capsys.readouterr().out)
    repo = hub.repos["me/small"]
    assert result["commit_url"].endswith(repo.resolve("main"))
    card = ModelCard(repo.files()["README.md"].decode())
    assert card.data.eval_results[0].metric_value == pytest.approx(result["accuracy"])


def test_rights_are_checked_before_the_model_is_loaded(hub, tmp_path):
    with pytest.raises(
        SystemExit, match=r"error: me may not write to nobody/small\. The namespaces of this token are"
    ):
        main(["push", "/no/model", "nobody/small"])
    dataset = ["--train-dataset", "/no/images", "--output", str(tmp_path / "tuned")]
    with pytest.raises(SystemExit, match=r"error: me may not write to nobody/small\."):
        main(["finetune", "/no/model", "--push-to-hub", "nobody/small", *dataset])
    assert not hub.repos

"""Plain checkpoints: what a folder and a repository hold, what the card says, and how they come back."""

import json
import re

import pytest
import torch
from huggingface_hub import ModelCard

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.commands import main
from tests.helpers import build_source


@pytest.fixture
def pruner(image_processor, pixel_values, without_matplotlib):
    """Without the pictures of its card, which take most of the time of a save."""
    without_matplotlib()
    pruner = SNPPruner(build_source("ViTForImageClassification", num_labels=2), image_processor)
    config = SNPConfig(layout="native", qk_sparsity=0.5, v_sparsity=0.5, mlp_sparsity=0.5)
    pruner.prune(config, calibration_dataset=pixel_values)
    return pruner


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_folder(pruner, tmp_path):
    folder = tmp_path / "model"
    pruner.save_pretrained(folder)
    files = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "pruning_plan.json"}
    files |= {"snp_config.json", "snp_measurements.json"}
    assert files == {name for name in names_in(folder) if not name.startswith("pictures/")}
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    assert (config["head_dim"], config["intermediate_size"], config["num_attention_heads"]) == (6, 48, 4)
    assert not config.keys() & {"auto_map", "block_configs", "source_model_type", "classifier_pooling"}
    text = ModelCard.load(folder / "README.md").text
    assert "trust_remote_code" not in text
    assert "Loading needs transformers ≥ 5.9 and nothing else" in text


def test_comes_back_with_its_history(pruner, image_folder, pixel_values, tmp_path):
    found = pruner.evaluate(str(image_folder), dataset_name="digits")
    expected = pruner.model(pixel_values).logits
    for generation in ("first", "second"):
        pruner.save_pretrained(tmp_path / generation)
        pruner = SNPPruner.from_pretrained(tmp_path / generation)
        assert pruner.layout == "native"
        assert pruner.pruning_plan.config == SNPConfig(
            layout="native", qk_sparsity=0.5, v_sparsity=0.5, mlp_sparsity=0.5
        )
        torch.testing.assert_close(pruner.model(pixel_values).logits, expected, atol=1e-5, rtol=1e-5)
        card = ModelCard.load(tmp_path / generation / "README.md")
        assert card.data.eval_results[0].metric_value == pytest.approx(found["accuracy"], abs=1e-6)
        assert "It was not fine-tuned after pruning." in card.text
    assert [number.accuracy for number in pruner.measurements.accuracies] == [found["accuracy"]]
    pruner.calibrate(pixel_values, len(pixel_values))
    pruner.prune(SNPConfig(target_flops=0.7))
    assert pruner.layout == "snp" and len(pruner.pruning_plan.steps) == 2


def test_layouts_take_each_others_place(pruner, tmp_path):
    folder = tmp_path / "model"
    pruner.save_pretrained(folder, layout="snp")
    assert "modeling_snp_vit.py" in names_in(folder)
    (folder / "mine.txt").write_text("mine")
    pruner.save_pretrained(folder, overwrite=True)
    assert not [name for name in names_in(folder) if name.endswith(".py")]
    assert "mine.txt" in names_in(folder)
    pruner.save_pretrained(folder, layout="snp", overwrite=True)
    assert "head_dim" not in json.loads((folder / "config.json").read_text())
    assert "trust_remote_code=True" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="layout must be one of 'snp', 'native', got 'plain'"):
        pruner.save_pretrained(folder, layout="plain", overwrite=True)


def test_push(pruner, hub):
    pruner.push_to_hub("me/small", layout="snp")
    pruner.push_to_hub("me/small")
    files = hub.repos["me/small"].files()
    assert not [name for name in files if name.endswith(".py")]
    assert "from_pretrained(name).eval()" in files["README.md"].decode()
    with pytest.raises(ValueError, match="layout must be one of"):
        pruner.push_to_hub("me/other", layout="plain")
    assert "me/other" not in hub.repos


def test_merged_tokens_are_no_plain_checkpoint(image_processor, pixel_values, tmp_path):
    pruner = SNPPruner(build_source("ViTForImageClassification"), image_processor)
    pruner.prune(SNPConfig(method="snp", token_sparsity=0.5), calibration_dataset=pixel_values)
    with pytest.raises(ValueError, match="blocks of this model merge tokens"):
        pruner.save_pretrained(tmp_path / "model", layout="native")
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("hub")
def test_a_plan_that_does_not_fit_is_refused_before_any_work(image_processor, pixel_values, tmp_path, hub):
    pruner = SNPPruner(build_source("ViTForImageClassification"), image_processor)
    pruner.prune(SNPConfig(qk_sparsity=[0.0, 0.0, 0.5]), calibration_dataset=pixel_values)
    message = "v_head_dim of block 2 is 12, but qk_head_dim of block 2 is 6"
    with pytest.raises(ValueError, match=message):
        pruner.save_pretrained(tmp_path / "model", layout="native")
    with pytest.raises(ValueError, match=message):
        pruner.push_to_hub("me/small", layout="native")
    pruner.save_pretrained(tmp_path / "model")
    for arguments in (["push", tmp_path / "model", "small"], ["finetune", tmp_path / "model", "--train-dataset", "/no",
                      "--output", tmp_path / "tuned"]):  # fmt: skip
        with pytest.raises(SystemExit, match=message):
            main([*map(str, arguments), "--layout", "native"])
    assert not hub.repos and not (tmp_path / "tuned").exists()


def test_command_line(image_processor, image_folder, hub, tmp_path, capsys):
    build_source("ViTForImageClassification", num_labels=2).save_pretrained(tmp_path / "dense")
    image_processor.save_pretrained(tmp_path / "dense")
    small = tmp_path / "small"
    options = ["--target-flops", "0.6", "--layout", "native", "--dataset", str(image_folder)]
    main(["prune", str(tmp_path / "dense"), "--output", str(small), *options])
    assert not list(small.glob("*.py"))
    main(["evaluate", str(small), "--dataset", str(image_folder), "--update-card"])
    assert not list(small.glob("*.py"))
    main(["push", str(small), "small"])
    main(["push", str(small), "own-code", "--layout", "snp"])
    assert "modeling_snp_vit.py" not in hub.repos["me/small"].files()
    assert "modeling_snp_vit.py" in hub.repos["me/own-code"].files()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    assert re.search(r"--layout \{snp,native\}\s+'snp' saves", capsys.readouterr().out)

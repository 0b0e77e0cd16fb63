"""LoRA on pruned models, whose blocks have sizes of their own."""

import pytest
import torch
from transformers import AutoModelForImageClassification, TrainingArguments

from optimum_snp import SNPConfig, SNPPruner
from optimum_snp.publishing import claim_folder
from tests.helpers import build_source


peft = pytest.importorskip("peft")

QK_SPARSITY = {"ViTForImageClassification": [0.5, 0.25, 0.0], "SwinForImageClassification": [0.5, 0.25, 0.5, 0.0, 0.3]}

LORA = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])


def arguments(folder, **options):
    return TrainingArguments(
        folder, use_cpu=True, dataloader_pin_memory=False, report_to="none", disable_tqdm=True, max_steps=4,
        save_steps=2, per_device_train_batch_size=3, learning_rate=1e-2, **options,
    )  # fmt: skip


def pairs(pixel_values):
    return [(image, index % 5) for index, image in enumerate(pixel_values)]


@pytest.fixture(scope="module", params=QK_SPARSITY)
def adapted(request, tmp_path_factory):
    """A pruner after LoRA, its weights before, and the folder of base model and checkpoints."""
    folder = tmp_path_factory.mktemp("adapted")
    pixel_values = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pruner = SNPPruner(build_source(request.param))
    config = SNPConfig(qk_sparsity=QK_SPARSITY[request.param], v_sparsity=0.3, hidden_sparsity=0.25)
    pruner.prune(config, calibration_dataset=pixel_values)
    pruner.model.classifier.bias.requires_grad_(False)  # what was frozen stays so
    pruner.save_pretrained(folder / "base")
    before = {name: weight.clone() for name, weight in pruner.model.state_dict().items()}
    pruner.finetune(pairs(pixel_values), args=arguments(folder / "run"), peft_config=LORA)
    return pruner, before, folder, pixel_values


def test_only_what_is_adapted_changes(adapted):
    pruner, before, _, _ = adapted
    after = pruner.model.state_dict()
    assert after.keys() == before.keys()
    for name, weight in after.items():
        is_adapted = "q_proj.weight" in name or "v_proj.weight" in name or name.startswith("classifier.")
        assert torch.equal(weight, before[name]) != is_adapted, name
    frozen = [name for name, weight in pruner.model.named_parameters() if not weight.requires_grad]
    assert frozen == ["classifier.bias"]


# Here PEFT is called by the test.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_saved_adapter_on_the_base_is_the_merged_model(adapted):
    pruner, _, folder, pixel_values = adapted
    base = AutoModelForImageClassification.from_pretrained(folder / "base", trust_remote_code=True)
    model = peft.PeftModel.from_pretrained(base, folder / "run" / "checkpoint-4").eval()
    torch.testing.assert_close(model(pixel_values).logits, pruner.model(pixel_values).logits)


def test_adapters_resume(adapted):
    pruner, _, folder, pixel_values = adapted
    resumed = SNPPruner.from_pretrained(folder / "base")
    resumed.finetune(
        pairs(pixel_values),
        args=arguments(folder / "again"),
        peft_config=LORA,
        resume_from_checkpoint=folder / "run" / "checkpoint-2",
    )
    for name, weight in pruner.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_the_merged_model_is_saved_whole(adapted, tmp_path):
    pruner, _, folder, pixel_values = adapted
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # left there by a Trainer
        (tmp_path / name).write_bytes((folder / "run" / "checkpoint-4" / name).read_bytes())
    claim_folder(tmp_path)
    pruner.save_pretrained(tmp_path, overwrite=True)
    assert not list(tmp_path.glob("adapter_*"))
    model = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=True)
    torch.testing.assert_close(model(pixel_values).logits, pruner.model(pixel_values).logits)


def test_a_model_without_the_target_modules_is_an_error(source, pixel_values, tmp_path):
    with pytest.raises(ValueError, match=r"nothing.* not found in the base model"):
        SNPPruner(source).finetune(
            pairs(pixel_values), args=arguments(tmp_path), peft_config=peft.LoraConfig(target_modules=["nothing"])
        )


def test_a_broken_training_leaves_the_model_without_adapters(source, pixel_values, tmp_path):
    pruner = SNPPruner(source)
    names = pruner.model.state_dict().keys()
    with pytest.raises(ValueError, match="NaN"):
        pruner.finetune(pairs(pixel_values * float("nan")), args=arguments(tmp_path), peft_config=LORA)
    assert pruner.model.state_dict().keys() == names

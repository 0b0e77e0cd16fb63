"""What a source must be, whatever its family: weights at hand, of its config's sizes, finite."""

import torch
from torch import nn
from transformers import PreTrainedModel


def check_source(source: PreTrainedModel) -> None:
    """Tells before any work whether the weights of a model can be converted.

    Raises:
        ValueError: If not; the message names the reason and the remedy.
    """
    name = type(source).__name__
    if getattr(source, "_hf_peft_config_loaded", False) or any(
        hasattr(part, "base_layer") for part in source.modules()
    ):
        raise ValueError(
            f"This {name} has adapters of PEFT, which pruning would leave behind. Merge them first, with "
            "merge_and_unload() of the PeftModel."
        )
    quantized = [key for key, weight in source.named_parameters() if not weight.is_floating_point()]
    if getattr(source, "is_quantized", False) or getattr(source, "hf_quantizer", None) is not None or quantized:
        raise ValueError(
            f"This {name} is quantised, so its weights are not the numbers that pruning needs. Load it without "
            "quantization_config, prune it, and quantise what comes out (export with dtype 'int8')."
        )
    for key, weight in source.named_parameters():
        if weight.is_meta:
            raise ValueError(
                f"The weight {key} is on the meta device: the model has no weights, or they are offloaded to the disk "
                "by device_map. Load it with from_pretrained and without device_map."
            )
        if weight.is_inference():
            raise ValueError(
                f"The weight {key} was made under torch.inference_mode(), so that it can never be trained. Load the "
                "model outside of it."
            )
    if key := weight_not_finite(source):
        raise ValueError(f"The weight {key} has values that are NaN or infinite; such a model cannot be pruned.")
    _check_classifiers(source)


def weight_not_finite(model: nn.Module) -> str | None:
    """The name of the first weight that is NaN or infinite anywhere; `None` of a sound model."""
    return next((name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()), None)


def _check_classifiers(source: PreTrainedModel) -> None:
    """A classifier that was replaced by hand while the config still tells of the one before."""
    expected = source.config.num_labels
    for name, layer in source.named_children():
        if name.endswith("classifier") and isinstance(layer, nn.Linear) and layer.out_features != expected:
            raise ValueError(
                f"{name} has {layer.out_features} outputs, but the config says num_labels={expected}. Set "
                f"config.num_labels, or config.id2label, to what the layer was built for."
            )

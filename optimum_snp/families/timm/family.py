"""timm's VisionTransformer and SwinTransformer, in `TimmWrapperModel` and `TimmWrapperForImageClassification`."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

from ...models import (
    SNPSwinForImageClassification,
    SNPSwinModel,
    SNPViTConfig,
    SNPViTForImageClassification,
    SNPViTModel,
)
from ...packages import check_packages
from ..deit import DeiTFamily
from ..family import Family, NativeSizes, Weights
from ..vit import ViTFamily
from . import swin, vit
from .image_processor import convert_image_processor


# The modules of timm that register models of the two architectures, among others.
_TIMM_MODULES = ("vision_transformer", "deit", "swin_transformer")


class TimmFamily(Family):
    """A ViT or a Swin, as the timm model says."""

    title = "timm"
    limits = "networks but plain ViTs, DeiTs and Swins, which are refused"
    model_types = ("timm_wrapper",)
    source_classes = {
        "TimmWrapperModel": SNPViTModel,
        "TimmWrapperForImageClassification": SNPViTForImageClassification,
    }
    image_processor_files = (*Family.image_processor_files, "config.json")
    native_version = ViTFamily.native_version

    def check_installed(self) -> None:
        """See [`Family.check_installed`]."""
        check_packages("timm")
        try:
            import timm  # noqa: F401
        except (ImportError, RuntimeError) as error:  # torchvision, whose operators do not fit this torch
            raise ImportError(
                "timm is installed, but cannot be imported: most likely torchvision was built for another build of "
                f"torch. Install the torchvision that belongs to torch {torch.__version__}. ({error})"
            ) from error

    def class_name_of(self, config: Mapping[str, Any]) -> str | None:
        """See [`Family.class_name_of`]; configs of timm name a network, and no class of transformers."""
        if "pretrained_cfg" not in config:
            return None
        return "TimmWrapperForImageClassification" if config.get("num_classes", 1) else "TimmWrapperModel"

    def check_config(self, config: Mapping[str, Any], class_name: str) -> None:
        """See [`Family.check_config`]; the network is built without memory for its weights."""
        from timm.models import is_model_in_modules

        name = config.get("architecture")
        if not is_model_in_modules(str(name), _TIMM_MODULES):
            raise ValueError(
                f"The timm architecture {name} cannot be pruned: it is no plain VisionTransformer (ViT, DeiT, "
                "DeiT III, DINOv2, AugReg and the like) and no SwinTransformer of the first version. Other families, "
                "Swin V2 among them, can be pruned from their checkpoints for transformers."
            )
        source_class = getattr(transformers, class_name)
        try:
            with torch.device("meta"):
                source = source_class(source_class.config_class.from_dict(copy.deepcopy(dict(config))))
        except (ImportError, TypeError) as error:  # an unknown name, or model_args that transformers gives as well
            raise ValueError(f"transformers cannot build the timm architecture {name}: {error}") from error
        self.convert_config(source)

    def target_class(self, source: PreTrainedModel) -> type[PreTrainedModel]:
        """See [`Family.target_class`]."""
        if not _is_swin(source.timm_model):
            return self.source_classes[type(source).__name__]
        return SNPSwinForImageClassification if _is_classifier(source) else SNPSwinModel

    def convert_config(self, source: PreTrainedModel) -> PretrainedConfig:
        """See [`Family.convert_config`]."""
        config = source.config
        options = (config.model_args or {}) if hasattr(config, "model_args") else {}
        if options.get("features_only"):
            raise ValueError("model_args has features_only=True: a model of feature maps only cannot be pruned.")
        fields = {
            "id2label": config.id2label,
            "label2id": config.label2id,
            "problem_type": config.problem_type,
            "initializer_range": config.initializer_range,
            "source_model_type": config.model_type,
            "timm_architecture": config.architecture,
        }
        parts = swin if _is_swin(source.timm_model) else vit
        return parts.convert_config(
            source.timm_model, fields, is_classifier=_is_classifier(source), pools=config.do_pooling
        )

    def source_weights(self, source: PreTrainedModel) -> Weights:
        """See [`Family.source_weights`]; position embeddings of all tokens are told apart here."""
        weights = super().source_weights(source)
        return weights if _is_swin(source.timm_model) else vit.with_own_positions(weights, source.timm_model)

    def convert_weights(
        self, weights: Weights, model_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.convert_weights`]; fused weights come apart, layer scale goes into what it scales."""
        parts = swin if model_class.base_model_prefix == "snp_swin" else vit
        is_bare = model_class in (SNPViTModel, SNPSwinModel)
        return parts.convert_weights(
            {name.removeprefix("timm_model."): weight for name, weight in weights.items()}, is_bare=is_bare
        )

    def convert_image_processor(self, image_processor: BaseImageProcessor) -> BaseImageProcessor:
        """See [`Family.convert_image_processor`]."""
        return convert_image_processor(image_processor)

    def title_of(self, config: PretrainedConfig, name: str) -> str:
        """See [`Family.title_of`]: that of the architecture."""
        return ViTFamily().title_of(config, name) if isinstance(config, SNPViTConfig) else "Swin"

    def native_version_of(self, config: PretrainedConfig) -> str | None:
        """See [`Family.native_version_of`]; a Swin has none."""
        return self.native_version if isinstance(config, SNPViTConfig) else None

    def native_class(self, config: SNPViTConfig, model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
        """See [`Family.native_class`]: a ViT, or with a distillation token a DeiT."""
        family = DeiTFamily() if config.use_distillation_token else ViTFamily()
        return family.native_class(_as_type(config, family.model_types[0]), model_class)

    def native_config(
        self, config: SNPViTConfig, native_class: type[PreTrainedModel], sizes: NativeSizes
    ) -> PretrainedConfig:
        """See [`Family.native_config`]."""
        return ViTFamily().native_config(config, native_class, sizes)

    def native_weights(
        self, weights: Weights, native_class: type[PreTrainedModel], config: PretrainedConfig
    ) -> Weights:
        """See [`Family.native_weights`]."""
        return ViTFamily().native_weights(weights, native_class, config)

    def variants(self, class_name: str) -> dict[str, dict[str, Any]]:
        """See [`Family.variants`]."""
        swin = {"embed_dim": 12, "depths": (2, 3), "num_heads": (1, 2), "window_size": 2, "img_size": 32}
        variants = {
            "layer scale": {"init_values": 0.1, "no_embed_class": True},
            "registers": {"reg_tokens": 2},
            "swin": {"architecture": "swin_tiny_patch4_window7_224", **swin},
        }
        if class_name.endswith("ForImageClassification"):
            variants["mean"] = {"class_token": False, "global_pool": "avg"}
        return variants

    def example(self, class_name: str, **options: Any) -> PreTrainedModel:
        """See [`Family.example`]: 3 blocks, 4 heads of 12, MLP 96, 16 patches.

        `options` are those of timm's `VisionTransformer`; `architecture` names another model of timm.
        """
        self.check_installed()
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
        architecture = options.pop("architecture", "vit_tiny_patch16_224")
        attention = options.pop("attn_implementation", None)
        config_class = transformers.TimmWrapperConfig
        config = config_class.from_dict(
            {"architecture": architecture, "num_classes": 5, "label_names": [f"LABEL_{index}" for index in range(5)]}
        )
        config._attn_implementation = attention
        config.model_args = options if "swin" in architecture else {**sizes, **options}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(transformers, class_name)(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_(std=0.1)
                for module in model.modules():
                    if isinstance(module, nn.LayerNorm):
                        module.weight.add_(1.0)
        return model


def _is_classifier(source: PreTrainedModel) -> bool:
    return type(source).__name__ == "TimmWrapperForImageClassification"


def _is_swin(timm_model: nn.Module) -> bool:
    return type(timm_model).__name__ == "SwinTransformer"


def _as_type(config: PretrainedConfig, model_type: str) -> PretrainedConfig:
    return type(config).from_dict({**config.to_dict(), "source_model_type": model_type})

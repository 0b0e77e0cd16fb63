"""DINOv2 in our architecture, written for the tests alone: sources of transformers, and their weights under our names.

The weights go through an own, direct computation, so that the conversion of the package can be compared with it.
"""

import torch
import transformers

from optimum_snp.models import SNPViTBackbone, SNPViTConfig, SNPViTForImageClassification, SNPViTModel


FAMILIES = ("Dinov2", "Dinov2WithRegisters")
HEADS = {"Model": SNPViTModel, "ForImageClassification": SNPViTForImageClassification, "Backbone": SNPViTBackbone}

# Modules of a block there -> here. All else below the base model has one name, but for the list of blocks.
BLOCK_MODULES = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
SCALED = {"layer_scale1": ("attention.o_proj",), "layer_scale2": ("mlp.fc2", "mlp.down_proj")}

# What a source config says of itself, or of training alone.
UNREAD_FIELDS = ("model_type", "architectures", "transformers_version", "layerscale_value", "use_mask_token")


def build_dinov2(family, head, **options):
    """A random model of transformers for images of 24 pixels with 3 x 3 patches, every parameter drawn at random."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "mlp_ratio": 3,
        "image_size": 24,
        "patch_size": 8,
        "num_labels": 5,
        **options,
    }
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}{head}")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if name.endswith(("norm1.weight", "norm2.weight", "layernorm.weight")) else 0.0
            parameter.copy_(around + torch.randn(parameter.shape) * (0.5 if "lambda1" in name else 0.2))
    return model


def reference_config(source):
    """The config of our architecture that computes what `source` does."""
    config, head = source.config, _head(source)
    size = config.hidden_size * config.mlp_ratio
    if config.use_swiglu_ffn:
        size = (size * 2 // 3 + 7) // 8 * 8
    activation = "silu" if config.use_swiglu_ffn else config.hidden_act
    fields = {name: value for name, value in config.to_dict().items() if name not in UNREAD_FIELDS}
    return SNPViTConfig(
        **{**fields, "hidden_act": activation},
        intermediate_size=size,
        use_gated_mlp=config.use_swiglu_ffn,
        use_pooler=head == "Model",
        pooler_type="cls",
        classifier_pooling="cls_mean",
        interpolate_pos_encoding=True,
        interpolation_antialias=type(source).__name__.startswith("Dinov2WithRegisters"),
    )


def reference_weights(source):
    """The weights of `source` under our names, with the layer scales folded into what they scale."""
    prefix = "" if _head(source) == "Model" else "snp_vit."
    weights = {}
    for name, weight in source.state_dict().items():
        if name.startswith("classifier."):
            weights[name] = weight.clone()
        elif not name.endswith(("mask_token", "lambda1")):
            weights[prefix + _our_name(name.removeprefix(f"{source.base_model_prefix}."))] = weight.clone()
    for name, scale in source.state_dict().items():
        if name.endswith("lambda1"):
            layer, scale_name = name.removeprefix(f"{source.base_model_prefix}.").split(".")[2:4]
            for module in SCALED[scale_name]:
                for kind in ("weight", "bias"):
                    target = f"{prefix}layers.{layer}.{module}.{kind}"
                    if target in weights:
                        weights[target] = weights[target] * (scale[:, None] if kind == "weight" else scale)
    if isinstance(source, transformers.backbone_utils.BackboneMixin) and not source.config.apply_layernorm:
        weights = {name: weight for name, weight in weights.items() if ".layernorm." not in name}
    return weights


def reference_model(source):
    """Our model of the reference config and weights, in eval mode."""
    config = reference_config(source)
    config._attn_implementation = source.config._attn_implementation
    model = HEADS[_head(source)](config)
    model.load_state_dict(reference_weights(source))
    return model.eval()


def _head(source):
    return next(head for head in HEADS if type(source).__name__.endswith(head))


def _our_name(name):
    if not name.startswith("encoder.layer."):
        return name
    layer, module, *rest = name.removeprefix("encoder.layer.").split(".")
    return ".".join(["layers", layer, BLOCK_MODULES.get(module, module), *rest])

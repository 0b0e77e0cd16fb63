"""Configuration of a ViT or DeiT whose every block states its own sizes.

This file is copied into every saved checkpoint. It must import nothing but transformers and must load under
transformers 4.57 and 5.x.
"""

from transformers import PretrainedConfig


# The fields of one entry of `block_configs`, each with the type that it must have.
BLOCK_FIELDS = {
    "num_attention_heads": int,
    "qk_head_dim": int,
    "v_head_dim": int,
    "intermediate_size": int,
    "attention_scale": float,
}

# Arguments of `from_pretrained` that cannot change a checkpoint, because `block_configs` or the weights decide.
FIXED_FIELDS = (
    *BLOCK_FIELDS,
    "hidden_size",
    "num_hidden_layers",
    "block_configs",
    "norm_type",
    "qkv_bias",
    "use_distillation_token",
    "use_distillation_head",
    "use_pooler",
    "pooler_output_size",
)


class SNPViTConfig(PretrainedConfig):
    r"""
    Configuration of [`SNPViTModel`] and [`SNPViTForImageClassification`]: a ViT or DeiT in which every block has its
    own sizes.

    `num_attention_heads` and `intermediate_size` describe the dense network that the model was pruned from. They
    build the model only when `block_configs` is not given.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the residual stream, after pruning.
        num_hidden_layers (`int`, *optional*):
            Number of blocks. Defaults to the length of `block_configs`, or 12 without them.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Heads per block of the dense network.
        intermediate_size (`int`, *optional*, defaults to 3072):
            MLP neurons per block of the dense network.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout after the embeddings and on what each half of a block adds.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the attention probabilities.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Share of the images for which each half of the last block is left out in training; it grows from 0 in the
            first block.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12):
            Epsilon of the norms.
        image_size (`int` or pair of `int`, *optional*, defaults to 224):
            Height and width of the images, in pixels.
        patch_size (`int` or pair of `int`, *optional*, defaults to 16):
            Height and width of a patch, in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of an image.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether queries, keys and values have a bias.
        use_distillation_token (`bool`, *optional*, defaults to `False`):
            Whether a distillation token follows the class token (DeiT).
        use_distillation_head (`bool`, *optional*, defaults to `False`):
            Whether a second classifier reads the distillation token; the logits are then the mean of both.
        use_pooler (`bool`, *optional*, defaults to `False`):
            Whether a pooler follows the final norm.
        pooler_output_size (`int`, *optional*):
            Size of the pooler's output. Defaults to `hidden_size`.
        pooler_act (`str`, *optional*, defaults to `"tanh"`):
            Activation of the pooler.
        norm_type (`str`, *optional*, defaults to `"layer"`):
            The norms: `"layer"`, layer norm over `hidden_size` channels, is the only kind.
        block_configs (`list[dict]`, *optional*):
            One dict per block in execution order with the final integers `num_attention_heads`, `qk_head_dim`,
            `v_head_dim` (both per head), `intermediate_size`, and `attention_scale`, the factor of the attention
            scores. Without it every block is dense.

    Raises:
        ValueError: If a size is missing, no positive number, or contradicts another; block and field are named.
    """

    model_type = "snp_vit"
    keys_to_ignore_at_inference = ["cls_logits", "distillation_logits", "hidden_states", "attentions"]

    def __init__(
        self,
        hidden_size=768,
        num_hidden_layers=None,
        num_attention_heads=12,
        intermediate_size=3072,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.0,
        initializer_range=0.02,
        layer_norm_eps=1e-12,
        image_size=224,
        patch_size=16,
        num_channels=3,
        qkv_bias=True,
        use_distillation_token=False,
        use_distillation_head=False,
        use_pooler=False,
        pooler_output_size=None,
        pooler_act="tanh",
        norm_type="layer",
        block_configs=None,
        **kwargs,
    ):
        if block_configs is None:
            if hidden_size % num_attention_heads:
                raise ValueError(
                    f"hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}. "
                    "Give block_configs to state the sizes of every block."
                )
            head_dim = hidden_size // num_attention_heads
            dense_block = {
                "num_attention_heads": num_attention_heads,
                "qk_head_dim": head_dim,
                "v_head_dim": head_dim,
                "intermediate_size": intermediate_size,
                "attention_scale": head_dim**-0.5,
            }
            block_configs = [dict(dense_block) for _ in range(12 if num_hidden_layers is None else num_hidden_layers)]
        self.hidden_size = hidden_size
        self.num_hidden_layers = len(block_configs) if num_hidden_layers is None else num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.drop_path_rate = drop_path_rate
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.qkv_bias = qkv_bias
        self.use_distillation_token = use_distillation_token
        self.use_distillation_head = use_distillation_head
        self.use_pooler = use_pooler
        self.pooler_output_size = hidden_size if pooler_output_size is None else pooler_output_size
        self.pooler_act = pooler_act
        self.norm_type = norm_type
        self.block_configs = [dict(block) for block in block_configs]
        self._check_sizes()
        # A map read from the Hub points back to that repository; a saved model must carry its own code.
        kwargs["auto_map"] = {
            "AutoConfig": "configuration_snp_vit.SNPViTConfig",
            "AutoModel": "modeling_snp_vit.SNPViTModel",
            "AutoModelForImageClassification": "modeling_snp_vit.SNPViTForImageClassification",
        }
        super().__init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in [`PretrainedConfig`], but refuses arguments that the weights and `block_configs` overrule."""
        fixed = [name for name in FIXED_FIELDS if name in kwargs]
        if fixed:
            raise ValueError(
                f"{', '.join(fixed)} cannot be changed while loading: the sizes of a pruned model are those of its "
                "weights, stated per block in `block_configs` of its config.json. Leave the argument out."
            )
        return super().from_dict(config_dict, **kwargs)

    def _check_sizes(self):
        if len(self.block_configs) != self.num_hidden_layers:
            raise ValueError(
                f"num_hidden_layers is {self.num_hidden_layers}, block_configs has {len(self.block_configs)} blocks."
            )
        for name in ("hidden_size", "num_hidden_layers", "pooler_output_size"):
            _check_positive(name, getattr(self, name), int)
        for index, block in enumerate(self.block_configs):
            where = f"block_configs[{index}]"
            missing = [name for name in BLOCK_FIELDS if name not in block]
            unknown = [name for name in block if name not in BLOCK_FIELDS]
            if missing or unknown:
                raise ValueError(
                    f"{where} must have exactly the fields {', '.join(BLOCK_FIELDS)}; missing: "
                    f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
                )
            for name, expected_type in BLOCK_FIELDS.items():
                _check_positive(f"{where}.{name}", block[name], expected_type)
        if self.norm_type != "layer":
            raise ValueError(f"norm_type must be 'layer', got {self.norm_type!r}.")
        if self.use_distillation_head and not self.use_distillation_token:
            raise ValueError("use_distillation_head needs use_distillation_token.")


def _check_positive(name, value, expected_type):
    allowed = (int,) if expected_type is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not 0 < value < float("inf"):
        kind = "integer" if expected_type is int else "number"
        raise ValueError(f"{name} must be a positive {kind}, got {value!r}.")

"""Configuration of a Swin Transformer whose every block states its own sizes.

This file is copied into every saved checkpoint. It must import nothing but transformers and must load under
transformers 4.57 and 5.x.
"""

from transformers import PretrainedConfig
from transformers.activations import ACT2FN


try:
    from transformers.backbone_utils import BackboneConfigMixin
except ImportError:  # transformers 4.57
    from transformers.utils.backbone_utils import BackboneConfigMixin


# The fields of one entry of `block_configs`, each with the type that it must have.
BLOCK_FIELDS = {
    "num_attention_heads": int,
    "qk_head_dim": int,
    "v_head_dim": int,
    "intermediate_size": int,
    "attention_scale": float,
    "shift_size": int,
}

# Arguments of `from_pretrained` that cannot change a checkpoint, because `block_configs` or the weights decide.
FIXED_FIELDS = (
    *BLOCK_FIELDS,
    "embed_dim",
    "depths",
    "num_heads",
    "num_layers",
    "num_hidden_layers",
    "window_size",
    "mlp_ratio",
    "qkv_bias",
    "use_absolute_embeddings",
    "use_pooler",
    "hidden_size",
    "hidden_sizes",
    "patch_embedding_size",
    "merging_bias",
    "swin_version",
    "window_sizes",
    "block_configs",
    "stage_names",
)


class SNPSwinConfig(BackboneConfigMixin, PretrainedConfig):
    r"""
    Configuration of [`SNPSwinModel`], [`SNPSwinForImageClassification`] and [`SNPSwinBackbone`]: a Swin Transformer in
    which every stage has its own width and every block its own sizes.

    `embed_dim`, `num_heads` and `mlp_ratio` describe the dense network that the model was pruned from. They build the
    model only where `hidden_sizes` and `block_configs` are not given.

    Args:
        image_size (`int` or pair of `int`, *optional*, defaults to 224):
            Height and width of the images, in pixels. Other sizes work as well.
        patch_size (`int` or pair of `int`, *optional*, defaults to 4):
            Height and width of a patch, in pixels.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of an image.
        embed_dim (`int`, *optional*, defaults to 96):
            Width of the first stage of the dense network; every further stage is twice as wide.
        depths (`list[int]`, *optional*):
            Blocks per stage. Defaults to those of `block_configs`, or `[2, 2, 6, 2]` without them.
        num_heads (`list[int]`, *optional*, defaults to `[3, 6, 12, 24]`):
            Heads per block of the dense network, one number per stage.
        window_size (`int`, *optional*, defaults to 7):
            Height and width of the attention windows, in tokens.
        mlp_ratio (`float`, *optional*, defaults to 4.0):
            MLP neurons per channel of the dense network.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether queries, keys and values have a bias.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout after the embeddings and on what each half of a block adds.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the attention probabilities.
        drop_path_rate (`float`, *optional*, defaults to 0.1):
            Share of the images for which the last block's attention is left out in training; it grows from 0 in the
            first block.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP.
        use_absolute_embeddings (`bool`, *optional*, defaults to `False`):
            Whether position embeddings are added to the patches.
        use_pooler (`bool`, *optional*, defaults to `True`):
            Whether [`SNPSwinModel`] returns the mean of the tokens as `pooler_output`.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5):
            Epsilon of the norms of the blocks and of the final norm.
        hidden_sizes (`list[int]`, *optional*):
            Width of the residual stream per stage, after pruning. Defaults to `embed_dim`, doubled from stage to
            stage.
        hidden_size (`int`, *optional*):
            The last of `hidden_sizes`; nothing else is accepted.
        patch_embedding_size (`int`, *optional*):
            Channels that the patch convolution writes when a linear layer behind its norm takes them to
            `hidden_sizes[0]`. Without it the convolution writes the residual stream itself.
        merging_bias (`bool`, *optional*, defaults to `False`):
            Whether the linear layers of patch merging have a bias.
        swin_version (`int`, *optional*, defaults to 1):
            2 for a Swin Transformer V2: norms stand behind attention, MLP and patch merging, queries and keys of
            every head are brought to one length (cosine attention), keys have no bias, and windows never shrink to
            the map.
        window_sizes (`list[int]`, *optional*):
            Of a Swin V2 the window size of every stage; small maps may have smaller windows. Defaults to
            `window_size` in all stages.
        block_configs (`list[list[dict]]`, *optional*):
            For every stage one dict per block in execution order with the final integers `num_attention_heads`,
            `qk_head_dim`, `v_head_dim` (both per head), `intermediate_size`; `attention_scale`, the factor of the
            attention scores; and `shift_size`, by how many tokens the windows are shifted. Without it every block is
            dense.
        num_layers (`int`, *optional*), stage_names (`list[str]`, *optional*):
            What follows from `depths`; nothing else is accepted.
        out_features (`list[str]`, *optional*), out_indices (`list[int]`, *optional*):
            The feature maps of [`SNPSwinBackbone`], by names or positions in `stage_names` (`"stem"`, `"stage1"`, …).
            Defaults to the last stage.

    Raises:
        ValueError: If a size is missing, out of range, or contradicts another; stage, block and field are named.
    """

    model_type = "snp_swin"
    attribute_map = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
    keys_to_ignore_at_inference = ["hidden_states", "attentions", "reshaped_hidden_states"]

    def __init__(
        self,
        image_size=224,
        patch_size=4,
        num_channels=3,
        embed_dim=96,
        depths=None,
        num_heads=(3, 6, 12, 24),
        window_size=7,
        mlp_ratio=4.0,
        qkv_bias=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.1,
        hidden_act="gelu",
        use_absolute_embeddings=False,
        use_pooler=True,
        initializer_range=0.02,
        layer_norm_eps=1e-5,
        hidden_sizes=None,
        hidden_size=None,
        patch_embedding_size=None,
        merging_bias=False,
        swin_version=1,
        window_sizes=None,
        block_configs=None,
        num_layers=None,
        stage_names=None,
        out_features=None,
        out_indices=None,
        **kwargs,
    ):
        _check_integer("embed_dim", embed_dim)
        _check_integer("window_size", window_size)
        check_activation("hidden_act", hidden_act)
        if isinstance(swin_version, bool) or swin_version not in (1, 2):
            raise ValueError(f"swin_version must be 1 or 2, got {swin_version!r}.")
        if block_configs is None:
            depths = [2, 2, 6, 2] if depths is None else depths
            block_configs = _dense_blocks(embed_dim, depths, num_heads, window_size, mlp_ratio)
            if swin_version == 2:  # queries and keys have lengths of their own
                block_configs = [[{**block, "attention_scale": 1.0} for block in blocks] for blocks in block_configs]
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.embed_dim = embed_dim
        self.depths = [len(blocks) for blocks in block_configs] if depths is None else list(depths)
        self.num_heads = list(num_heads)
        self.window_size = window_size
        self.mlp_ratio = mlp_ratio
        self.qkv_bias = qkv_bias
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.drop_path_rate = drop_path_rate
        self.hidden_act = hidden_act
        self.use_absolute_embeddings = use_absolute_embeddings
        self.use_pooler = use_pooler
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        if hidden_sizes is None:
            hidden_sizes = [embed_dim * 2**stage for stage in range(len(self.depths))]
        self.hidden_sizes = list(hidden_sizes)
        self.patch_embedding_size = patch_embedding_size
        self.merging_bias = merging_bias
        self.swin_version = swin_version
        if window_sizes is None and swin_version == 2:
            window_sizes = [window_size] * len(self.depths)
        self.window_sizes = None if window_sizes is None else list(window_sizes)
        self.block_configs = [[dict(block) for block in blocks] for blocks in block_configs]
        self._check_sizes()
        self.hidden_size = _only("hidden_size", hidden_size, self.hidden_sizes[-1])
        self.num_layers = _only("num_layers", num_layers, len(self.depths))
        names = ["stem", *(f"stage{stage + 1}" for stage in range(len(self.depths)))]
        self.stage_names = _only("stage_names", stage_names, names)
        if out_features is None:
            self.out_indices = out_indices
        else:
            self.out_features = list(out_features)
            if out_indices is not None:
                _only("out_indices", [index % len(names) for index in out_indices], self.out_indices)
        # A map read from the Hub points back to that repository; a saved model must carry its own code.
        kwargs["auto_map"] = {
            "AutoConfig": "configuration_snp_swin.SNPSwinConfig",
            "AutoModel": "modeling_snp_swin.SNPSwinModel",
            "AutoModelForImageClassification": "modeling_snp_swin.SNPSwinForImageClassification",
            "AutoBackbone": "modeling_snp_swin.SNPSwinBackbone",
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

    @property
    def stage_window_sizes(self):
        """The window size of every stage."""
        return [self.window_size] * len(self.depths) if self.window_sizes is None else self.window_sizes

    def _check_sizes(self):
        if self.window_sizes is not None and self.swin_version == 1:
            raise ValueError(
                "window_sizes is for swin_version 2; all stages of version 1 have windows of window_size."
            )
        for name in ("depths", "hidden_sizes", "stage_window_sizes"):
            if len(getattr(self, name)) != len(self.block_configs):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} stages, block_configs has {len(self.block_configs)}."
                )
        if not self.block_configs:
            raise ValueError("block_configs must have at least one stage, got none.")
        for stage, size in enumerate(self.hidden_sizes):
            _check_integer(f"hidden_sizes[{stage}]", size)
        for stage, size in enumerate(self.stage_window_sizes):
            _check_integer(f"window_sizes[{stage}]", size)
        if self.patch_embedding_size is not None:
            _check_integer("patch_embedding_size", self.patch_embedding_size)
        for stage, blocks in enumerate(self.block_configs):
            if len(blocks) != self.depths[stage] or not blocks:
                raise ValueError(
                    f"depths[{stage}] is {self.depths[stage]}, block_configs[{stage}] has {len(blocks)} blocks; "
                    "they must agree and be at least 1."
                )
            for index, block in enumerate(blocks):
                self._check_block(f"block_configs[{stage}][{index}]", block, self.stage_window_sizes[stage])

    def _check_block(self, where, block, window_size):
        missing = [name for name in BLOCK_FIELDS if name not in block]
        unknown = [name for name in block if name not in BLOCK_FIELDS]
        if missing or unknown:
            raise ValueError(
                f"{where} must have exactly the fields {', '.join(BLOCK_FIELDS)}; missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
            )
        for name in ("num_attention_heads", "qk_head_dim", "v_head_dim", "intermediate_size"):
            _check_integer(f"{where}.{name}", block[name])
        scale, shift = block["attention_scale"], block["shift_size"]
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
            raise ValueError(f"{where}.attention_scale must be a positive number, got {scale!r}.")
        if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift < window_size:
            raise ValueError(
                f"{where}.shift_size must be an integer from 0 to window_size - 1 = {window_size - 1}, got {shift!r}."
            )


def check_activation(field, name):
    """Raises a `ValueError` if transformers has no activation of that name."""
    if name not in ACT2FN:
        raise ValueError(f"{field} must be one of {', '.join(sorted(ACT2FN))}, got {name!r}.")


def _dense_blocks(embed_dim, depths, num_heads, window_size, mlp_ratio):
    if len(num_heads) != len(depths):
        raise ValueError(f"num_heads has {len(num_heads)} stages, depths has {len(depths)}.")
    block_configs = []
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        hidden_size = embed_dim * 2**stage
        _check_integer(f"depths[{stage}]", depth)
        _check_integer(f"num_heads[{stage}]", heads)
        if hidden_size % heads:
            raise ValueError(
                f"The width {hidden_size} of stage {stage} is no multiple of num_heads[{stage}] {heads}. "
                "Give block_configs to state the sizes of every block."
            )
        dense_block = {
            "num_attention_heads": heads,
            "qk_head_dim": hidden_size // heads,
            "v_head_dim": hidden_size // heads,
            "intermediate_size": int(mlp_ratio * hidden_size),
            "attention_scale": (hidden_size // heads) ** -0.5,
        }
        # Every other block shifts its windows by half of their size.
        block_configs.append([{**dense_block, "shift_size": index % 2 * (window_size // 2)} for index in range(depth)])
    return block_configs


def _check_integer(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def _only(name, given, value):
    """`value`, which follows from other fields, unless something else was given for it."""
    if given is not None and given != value:
        raise ValueError(f"{name} is {given!r}, but the other fields say {value!r}. Leave {name} out.")
    return value

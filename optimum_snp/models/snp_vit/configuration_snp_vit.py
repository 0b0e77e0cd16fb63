"""Configuration of a vision transformer (ViT, DeiT, DINOv2, DINOv3, BEiT) whose every block states its own sizes.

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
}

# What a block may have beside them: how many tokens it merges. Without it, none.
MERGED_TOKENS = "merged_tokens"

# Arguments of `from_pretrained` that cannot change a checkpoint, because `block_configs` or the weights decide.
FIXED_FIELDS = (
    *BLOCK_FIELDS,
    "hidden_size",
    "num_hidden_layers",
    "block_configs",
    "norm_type",
    "qkv_bias",
    "key_bias",
    "patch_embedding_bias",
    "use_position_embeddings",
    "rope_theta",
    "rope_head_dim",
    "use_relative_position_bias",
    "use_final_layernorm",
    "use_cls_token",
    "num_register_tokens",
    "use_distillation_token",
    "use_distillation_head",
    "use_pre_layernorm",
    "embedding_size",
    "use_gated_mlp",
    "use_pooler",
    "pooler_type",
    "pooler_output_size",
    "pooler_num_attention_heads",
    "pooler_intermediate_size",
    "projection_size",
    "projection_bias",
    "classifier_pooling",
    "norm_after_pooling",
    "stage_depths",
    "stage_names",
    "apply_layernorm",
    "patch_stride",
    "classifier_norm_size",
)

# The fields that name one of several ways.
CHOICES = {
    "norm_type": ("layer",),
    "pooler_type": ("dense", "cls", "mean", "cls_distillation", "attention"),
    "classifier_pooling": ("cls", "mean", "cls_mean", "cls_distillation"),
}

# The poolers without weights, which give tokens of the stream or means of some.
TOKENS_AS_POOLED = ("cls", "mean", "cls_distillation")

FLAGS = (
    "patch_embedding_bias",
    "use_position_embeddings",
    "use_relative_position_bias",
    "use_final_layernorm",
    "use_cls_token",
    "use_pre_layernorm",
    "use_gated_mlp",
    "projection_bias",
    "norm_after_pooling",
    "interpolate_pos_encoding",
    "interpolation_antialias",
    "apply_layernorm",
    "reshape_hidden_states",
)


class SNPViTConfig(BackboneConfigMixin, PretrainedConfig):
    r"""
    Configuration of [`SNPViTModel`], [`SNPViTForImageClassification`] and [`SNPViTBackbone`]: a vision transformer in
    which every block has its own sizes. The defaults are those of a ViT; the options make a DeiT or a DINOv2 of it.

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
            Activation of the MLP; of its gate, with `use_gated_mlp`.
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
            Height and width of the images that the position embeddings are made for, in pixels.
        patch_size (`int` or pair of `int`, *optional*, defaults to 16):
            Height and width of a patch, in pixels.
        patch_stride (pair of `int`, *optional*):
            From one patch to the next, downwards and to the right, in pixels. Without it patches do not overlap.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of an image.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether queries, keys and values have a bias.
        key_bias (`bool`, *optional*):
            Whether the keys have a bias. Without a value they have one if `qkv_bias` says so.
        patch_embedding_bias (`bool`, *optional*, defaults to `True`):
            Whether the convolution that embeds the patches has a bias.
        use_position_embeddings (`bool`, *optional*, defaults to `True`):
            Whether position embeddings are added to the patches. Without them images of every size are read.
        rope_theta (`float`, *optional*):
            The base of the periods of rotary positions, which turn the queries and keys of the patches in pairs of
            neurons (DINOv3). Queries and keys then have an even size. Without a value nothing is turned.
        rope_head_dim (`int`, *optional*):
            With `rope_theta`, the size of queries and keys per head in the dense network, a multiple of 4: each of
            its pairs has a period of its own. Defaults to `hidden_size / num_attention_heads`.
        use_relative_position_bias (`bool`, *optional*, defaults to `False`):
            Whether every block adds to its attention scores what a table has for the distance of two patches, and for
            pairs with the class token (BEiT).
        use_final_layernorm (`bool`, *optional*, defaults to `True`):
            Whether a norm stands behind the last block, or behind the pooling. Without it a classifier reads the
            stream as it is (CLIP).
        use_cls_token (`bool`, *optional*, defaults to `True`):
            Whether a class token precedes the patches.
        num_register_tokens (`int`, *optional*, defaults to 0):
            Tokens between the class token and the patches that have no position embedding (DINOv2 with registers).
        use_distillation_token (`bool`, *optional*, defaults to `False`):
            Whether a distillation token follows the class token (DeiT).
        use_distillation_head (`bool`, *optional*, defaults to `False`):
            Whether a second classifier reads the distillation token; the logits are then the mean of both.
        use_pre_layernorm (`bool`, *optional*, defaults to `False`):
            Whether a norm stands between the embeddings and the first block (CLIP).
        embedding_size (`int`, *optional*):
            Channels of the embeddings and of that norm where they have another number than the stream: a linear layer
            behind the norm then leads from them to the stream. Without it they have `hidden_size`.
        use_gated_mlp (`bool`, *optional*, defaults to `False`):
            Whether the MLP multiplies a second projection by the activations (SwiGLU). `intermediate_size` counts the
            pairs of both.
        use_pooler (`bool`, *optional*, defaults to `False`):
            Whether a pooler follows the final norm.
        pooler_type (`str`, *optional*, defaults to `"dense"`):
            What the pooler gives: `"dense"`, a linear layer and its activation on the class token (ViT), `"cls"`, the
            class token itself (DINOv2), `"mean"`, the mean of the patches (BEiT), or `"cls_distillation"`, the mean of
            class and distillation token (AST). `"attention"` needs no class token: a learned query attends to all
            tokens, and an MLP follows (SigLIP).
        pooler_output_size (`int`, *optional*):
            Size of the pooler's output. Defaults to `hidden_size`.
        pooler_num_attention_heads (`int`, *optional*), pooler_intermediate_size (`int`, *optional*):
            Heads, and neurons of the MLP, of the attention pooler.
        pooler_act (`str`, *optional*, defaults to `"tanh"`):
            Activation of the dense pooler, or of the MLP of the attention pooler.
        projection_size (`int`, *optional*):
            Size of the image embeddings that a linear layer makes of what the pooler gives (CLIP); without it there
            are none.
        projection_bias (`bool`, *optional*, defaults to `False`):
            Whether that layer has a bias.
        classifier_pooling (`str`, *optional*):
            What the classifier reads: `"cls"`, the class token; `"mean"`, the mean of the patches, without any other
            token; `"cls_mean"`, both side by side, twice as wide (DINOv2); or `"cls_distillation"`, the mean of class
            and distillation token (AST). Defaults to `"cls"`, or to `"mean"` without a class token.
        norm_after_pooling (`bool`, *optional*, defaults to `False`):
            Whether the final norm is over what the classifier reads or the pooler gives, in place of all tokens, which
            then stay as the last block leaves them.
        interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
            Whether images of every other size are read as well, with position embeddings that are interpolated in
            float32 (DINOv2). Otherwise only the `forward` that is asked to reads them, and interpolates in the dtype
            of the weights.
        interpolation_antialias (`bool`, *optional*, defaults to `False`):
            Whether that interpolation smooths where it shrinks (DINOv2 with registers).
        norm_type (`str`, *optional*, defaults to `"layer"`):
            The norms: `"layer"`, layer norm over `hidden_size` channels, is the only kind.
        block_configs (`list[dict]`, *optional*):
            One dict per block in execution order with the final integers `num_attention_heads`, `qk_head_dim`,
            `v_head_dim` (both per head), `intermediate_size`, and `attention_scale`, the factor of the attention
            scores; and, where a block merges tokens behind its attention, `merged_tokens`, by how many they get fewer
            there. Without it every block is dense.
        stage_depths (`list[int]`, *optional*):
            For every block of the dense network how many are left of it: 1, or 0 for one that was dropped. The stages
            of [`SNPViTBackbone`] are named after the dense blocks. Without it no block was dropped.
        stage_names (`list[str]`, *optional*):
            What follows from `stage_depths`; nothing else is accepted.
        out_features (`list[str]`, *optional*), out_indices (`list[int]`, *optional*):
            The feature maps of [`SNPViTBackbone`], by names or positions in `stage_names` (`"stem"`, `"stage1"`, …).
            Without them it gives the last stage.
        apply_layernorm (`bool`, *optional*, defaults to `True`):
            Whether the final norm stands behind the feature maps of [`SNPViTBackbone`], which has none otherwise.
        reshape_hidden_states (`bool`, *optional*, defaults to `True`):
            Whether those feature maps are `[batch, hidden_size, height, width]` without class token and registers, in
            place of `[batch, tokens, hidden_size]` with them.

    Raises:
        ValueError: If a value is missing, out of range, or contradicts another; block and field are named.
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
        patch_stride=None,
        num_channels=3,
        qkv_bias=True,
        key_bias=None,
        patch_embedding_bias=True,
        use_position_embeddings=True,
        rope_theta=None,
        rope_head_dim=None,
        use_relative_position_bias=False,
        use_final_layernorm=True,
        use_cls_token=True,
        num_register_tokens=0,
        use_distillation_token=False,
        use_distillation_head=False,
        use_pre_layernorm=False,
        embedding_size=None,
        use_gated_mlp=False,
        use_pooler=False,
        pooler_type="dense",
        pooler_output_size=None,
        pooler_num_attention_heads=None,
        pooler_intermediate_size=None,
        pooler_act="tanh",
        projection_size=None,
        projection_bias=False,
        classifier_pooling=None,
        norm_after_pooling=False,
        interpolate_pos_encoding=False,
        interpolation_antialias=False,
        norm_type="layer",
        block_configs=None,
        stage_depths=None,
        stage_names=None,
        out_features=None,
        out_indices=None,
        apply_layernorm=True,
        reshape_hidden_states=True,
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
        self.patch_stride = patch_stride
        self.num_channels = num_channels
        self.qkv_bias = qkv_bias
        self.key_bias = key_bias
        self.patch_embedding_bias = patch_embedding_bias
        self.use_position_embeddings = use_position_embeddings
        self.rope_theta = rope_theta
        if rope_theta is not None and rope_head_dim is None:
            rope_head_dim = hidden_size // num_attention_heads
        self.rope_head_dim = rope_head_dim
        self.use_relative_position_bias = use_relative_position_bias
        self.use_final_layernorm = use_final_layernorm
        self.use_cls_token = use_cls_token
        self.num_register_tokens = num_register_tokens
        self.use_distillation_token = use_distillation_token
        self.use_distillation_head = use_distillation_head
        self.use_pre_layernorm = use_pre_layernorm
        self.embedding_size = embedding_size
        self.use_gated_mlp = use_gated_mlp
        self.use_pooler = use_pooler
        self.pooler_type = pooler_type
        self.pooler_output_size = hidden_size if pooler_output_size is None else pooler_output_size
        self.pooler_num_attention_heads = pooler_num_attention_heads
        self.pooler_intermediate_size = pooler_intermediate_size
        self.pooler_act = pooler_act
        self.projection_size = projection_size
        self.projection_bias = projection_bias
        if classifier_pooling is None:
            classifier_pooling = "cls" if use_cls_token else "mean"
        self.classifier_pooling = classifier_pooling
        self.norm_after_pooling = norm_after_pooling
        self.interpolate_pos_encoding = interpolate_pos_encoding
        self.interpolation_antialias = interpolation_antialias
        self.norm_type = norm_type
        # A block that merges nothing does not say so: such configs are those of before tokens could be merged.
        self.block_configs = [
            {name: value for name, value in block.items() if (name, value) != (MERGED_TOKENS, 0)}
            for block in block_configs
        ]
        self.stage_depths = None if stage_depths is None else list(stage_depths)
        self.apply_layernorm = apply_layernorm
        self.reshape_hidden_states = reshape_hidden_states
        self._check_sizes()
        self._check_options()
        self._set_stages(stage_names, out_features, out_indices)
        # A map read from the Hub points back to that repository; a saved model must carry its own code.
        kwargs["auto_map"] = {
            "AutoConfig": "configuration_snp_vit.SNPViTConfig",
            "AutoModel": "modeling_snp_vit.SNPViTModel",
            "AutoModelForImageClassification": "modeling_snp_vit.SNPViTForImageClassification",
            "AutoBackbone": "modeling_snp_vit.SNPViTBackbone",
        }
        super().__init__(**kwargs)

    @property
    def num_extra_tokens(self):
        """How many tokens come before the patches."""
        return self.use_cls_token + self.use_distillation_token + self.num_register_tokens

    @property
    def stage_names(self):
        """The names of the embeddings and of all blocks of the dense network, also of dropped ones."""
        num_stages = len(self.block_configs if self.stage_depths is None else self.stage_depths)
        return ["stem", *(f"stage{stage + 1}" for stage in range(num_stages))]

    @property
    def strides(self):
        """From one patch to the next, downwards and to the right, in pixels."""
        return as_pair(self.patch_size if self.patch_stride is None else self.patch_stride)

    @property
    def grid(self):
        """Rows and columns of the patches of an image of the configured size."""
        return self.grid_of(as_pair(self.image_size))

    def grid_of(self, image_size):
        """Rows and columns of the whole patches of an image of this height and width."""
        (height, width), (down, right) = as_pair(self.patch_size), self.strides
        return ((image_size[0] - height) // down + 1, (image_size[1] - width) // right + 1)

    @property
    def num_patches(self):
        """The patches of an image of the configured size."""
        rows, columns = self.grid
        return rows * columns

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
            unknown = [name for name in block if name not in (*BLOCK_FIELDS, MERGED_TOKENS)]
            if missing or unknown:
                raise ValueError(
                    f"{where} must have exactly the fields {', '.join(BLOCK_FIELDS)}; missing: "
                    f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}."
                )
            for name, expected_type in BLOCK_FIELDS.items():
                _check_positive(f"{where}.{name}", block[name], expected_type)
            if MERGED_TOKENS in block:
                _check_positive(f"{where}.{MERGED_TOKENS}", block[MERGED_TOKENS], int)
        self._check_merged_tokens()
        depths = self.stage_depths
        if depths is not None and any(isinstance(depth, bool) or depth not in (0, 1) for depth in depths):
            raise ValueError(f"stage_depths must have 0 or 1 for every block of the dense network, got {depths!r}.")
        if depths is not None and sum(depths) != self.num_hidden_layers:
            raise ValueError(
                f"stage_depths {depths!r} leaves {sum(depths)} blocks, block_configs has {self.num_hidden_layers}."
            )

    def _check_merged_tokens(self):
        if not any(MERGED_TOKENS in block for block in self.block_configs):
            return
        for name in ("rope_theta", "use_relative_position_bias"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, but blocks merge tokens ({MERGED_TOKENS}): what attention "
                    "adds for the positions of patches is not given to groups of them."
                )
        num_patches = self.num_patches
        for index, block in enumerate(self.block_configs):
            merged = block.get(MERGED_TOKENS, 0)
            if 2 * merged > num_patches:
                raise ValueError(
                    f"block_configs[{index}].{MERGED_TOKENS} is {merged}, but {num_patches} patches reach the block, "
                    "of which at most half can merge."
                )
            num_patches -= merged

    def _check_options(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise ValueError(f"{name} must be {choices}, got {getattr(self, name)!r}.")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if self.key_bias not in (None, True, False):
            raise ValueError(f"key_bias must be True, False or None, got {self.key_bias!r}.")
        self._check_rotary_positions()
        for stride in self.strides:
            _check_positive("patch_size" if self.patch_stride is None else "patch_stride", stride, int)
        registers = self.num_register_tokens
        if isinstance(registers, bool) or not isinstance(registers, int) or registers < 0:
            raise ValueError(f"num_register_tokens must be an integer from 0 on, got {registers!r}.")
        for name in ("hidden_act", "pooler_act"):
            check_activation(name, getattr(self, name))
        if self.use_distillation_head and not self.use_distillation_token:
            raise ValueError("use_distillation_head needs use_distillation_token.")
        if not self.use_cls_token:
            reads_cls_token = self.use_pooler and self.pooler_type != "attention"
            for name, needs_it in (
                ("use_distillation_token", self.use_distillation_token),
                ("use_pooler", reads_cls_token),
            ):
                if needs_it:
                    raise ValueError(f"{name} is True, but use_cls_token is False: there is no class token for it.")
            if self.classifier_pooling != "mean":
                raise ValueError(
                    f"classifier_pooling is {self.classifier_pooling!r}, but use_cls_token is False: there is no "
                    "class token to read. Only 'mean' is left."
                )
        if self.norm_after_pooling:
            for name, is_set in (
                ("use_pooler", self.use_pooler and self.pooler_type not in ("cls", "mean")),
                ("use_distillation_head", self.use_distillation_head),
                ("classifier_pooling", self.classifier_pooling == "cls_mean"),
            ):
                if is_set:
                    value = getattr(self, name)
                    raise ValueError(f"{name} is {value!r}, but norm_after_pooling norms one vector of hidden_size.")
            if not self.use_final_layernorm:
                raise ValueError("use_final_layernorm is False, but norm_after_pooling says where that norm stands.")
        self._check_further_options()
        if self.use_relative_position_bias and self.num_extra_tokens != 1:
            raise ValueError(
                f"use_relative_position_bias needs a class token and no other before the patches, but there are "
                f"{self.num_extra_tokens} tokens."
            )
        for name, is_read in (("pooler_type", self.use_pooler), ("classifier_pooling", True)):
            if is_read and getattr(self, name) == "cls_distillation" and not self.use_distillation_token:
                raise ValueError(f"{name} is 'cls_distillation', but use_distillation_token is False.")
        if self.use_pooler and self.pooler_type in TOKENS_AS_POOLED and self.pooler_output_size != self.hidden_size:
            raise ValueError(
                f"pooler_output_size is {self.pooler_output_size}, but pooler_type {self.pooler_type!r} gives "
                f"hidden_size {self.hidden_size} channels. Leave pooler_output_size out."
            )

    def _check_rotary_positions(self):
        if self.rope_theta is None:
            if self.rope_head_dim is not None:
                raise ValueError(f"rope_head_dim is {self.rope_head_dim!r}, but there is no rope_theta. Give both.")
            return
        _check_positive("rope_theta", self.rope_theta, float)
        _check_positive("rope_head_dim", self.rope_head_dim, int)
        if self.rope_head_dim % 4:
            raise ValueError(
                f"rope_head_dim is {self.rope_head_dim}, but rotary positions turn half of the pairs of neurons by "
                "the height of a patch and half by its width. It must be a multiple of 4."
            )
        for index, block in enumerate(self.block_configs):
            size = block["qk_head_dim"]
            if size % 2 or size > self.rope_head_dim:
                raise ValueError(
                    f"block_configs[{index}].qk_head_dim is {size}, but rotary positions (rope_theta) turn queries "
                    f"and keys in pairs of neurons. It must be an even number up to {self.rope_head_dim}."
                )

    def _check_further_options(self):
        if self.embedding_size is not None:
            _check_positive("embedding_size", self.embedding_size, int)
            if not self.use_pre_layernorm:
                raise ValueError("embedding_size needs use_pre_layernorm: without a norm there is one size.")
        if self.use_pooler and self.pooler_type == "attention":
            for name in ("pooler_num_attention_heads", "pooler_intermediate_size"):
                _check_positive(name, getattr(self, name), int)
            if self.pooler_output_size % self.pooler_num_attention_heads:
                raise ValueError(
                    f"pooler_output_size {self.pooler_output_size} is no multiple of pooler_num_attention_heads "
                    f"{self.pooler_num_attention_heads}."
                )
        if self.projection_size is not None:
            _check_positive("projection_size", self.projection_size, int)
            if not self.use_pooler:
                raise ValueError("projection_size needs use_pooler: the projection reads what the pooler gives.")

    def _set_stages(self, stage_names, out_features, out_indices):
        names = self.stage_names
        if stage_names is not None and list(stage_names) != names:
            raise ValueError(f"stage_names is {stage_names!r}, but the other fields say {names!r}. Leave it out.")
        self._out_features = self._out_indices = None
        if out_features is not None:
            self.out_features = list(out_features)
            if out_indices is not None and [index % len(names) for index in out_indices] != self.out_indices:
                raise ValueError(
                    f"out_indices is {out_indices!r}, but out_features {out_features!r} says {self.out_indices!r}. "
                    "Leave one of them out."
                )
        elif out_indices is not None:
            self.out_indices = list(out_indices)


def as_pair(size):
    """Height and width of what is given as one number, for squares, or as two."""
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def check_activation(field, name):
    """Raises a `ValueError` if transformers has no activation of that name."""
    if name not in ACT2FN:
        raise ValueError(f"{field} must be one of {', '.join(sorted(ACT2FN))}, got {name!r}.")


def _check_positive(name, value, expected_type):
    allowed = (int,) if expected_type is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not 0 < value < float("inf"):
        kind = "integer" if expected_type is int else "number"
        raise ValueError(f"{name} must be a positive {kind}, got {value!r}.")

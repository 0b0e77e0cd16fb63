"""Configurations of models of images and texts (CLIP, MetaCLIP 2, SigLIP) whose vision tower is a pruned one.

This file is copied into every saved checkpoint. It must import nothing but transformers and its sibling, and must load
under transformers 4.57 and 5.x.
"""

from transformers import CLIPTextConfig, MetaClip2TextConfig, PretrainedConfig, SiglipTextConfig

from .configuration_snp_vit import SNPViTConfig


class SNPTwoTowersConfig(PretrainedConfig):
    r"""
    What the configurations of all such models have in common.

    Args:
        text_config (`dict` or `PretrainedConfig`):
            Of the text tower, which is that of transformers.
        vision_config (`dict` or [`SNPViTConfig`]):
            Of the vision tower, whose every block has its own sizes.
        projection_dim (`int`, *optional*, defaults to 512):
            Size of the embeddings of images and texts, where linear layers make them (CLIP, MetaCLIP 2).
        projection_bias (`bool`, *optional*, defaults to `False`):
            Whether the projection of images has a bias, which a width that was pruned with a refit gives it.
        logit_scale_init_value (`float`, *optional*, defaults to 2.6592):
            Logarithm of the scale of the logits, before training.
        initializer_factor (`float`, *optional*, defaults to 1.0):
            Of the initial weights of the text tower.
    """

    has_no_defaults_at_init = True
    text_config_class = None
    model_class_name = None

    def __init__(
        self,
        text_config=None,
        vision_config=None,
        projection_dim=512,
        projection_bias=False,
        logit_scale_init_value=2.6592,
        initializer_factor=1.0,
        **kwargs,
    ):
        if text_config is None or vision_config is None:
            raise ValueError(f"A {type(self).__name__} needs text_config and vision_config.")
        if isinstance(text_config, dict):
            text_config = self.text_config_class(**text_config)
        if isinstance(vision_config, dict):
            vision_config = SNPViTConfig(**vision_config)
        self.text_config = text_config
        self.vision_config = vision_config
        self.projection_dim = projection_dim
        self.projection_bias = projection_bias
        self.logit_scale_init_value = logit_scale_init_value
        self.initializer_factor = initializer_factor
        model = f"modeling_snp_two_towers.{self.model_class_name}"
        # A map read from the Hub points back to that repository; a saved model must carry its own code.
        kwargs["auto_map"] = {
            "AutoConfig": f"configuration_snp_two_towers.{type(self).__name__}",
            "AutoModel": model,
            "AutoModelForZeroShotImageClassification": model,
        }
        super().__init__(**kwargs)

    # What the stages of pruning ask a config for is that of the images.

    @property
    def image_size(self):
        """Of the images, in pixels."""
        return self.vision_config.image_size

    @property
    def patch_size(self):
        """Of a patch, in pixels."""
        return self.vision_config.patch_size

    @property
    def num_channels(self):
        """Channels of an image."""
        return self.vision_config.num_channels

    @property
    def block_configs(self):
        """The sizes of every block of the vision tower."""
        return self.vision_config.block_configs


class SNPCLIPConfig(SNPTwoTowersConfig):
    """Configuration of [`SNPCLIPModel`]."""

    model_type = "snp_clip"
    sub_configs = {"text_config": CLIPTextConfig, "vision_config": SNPViTConfig}
    text_config_class = CLIPTextConfig
    model_class_name = "SNPCLIPModel"

    def __init__(self, **fields):  # transformers 5 makes one of its own for a class without
        super().__init__(**fields)


class SNPMetaClip2Config(SNPTwoTowersConfig):
    """Configuration of [`SNPMetaClip2Model`]."""

    model_type = "snp_metaclip_2"
    sub_configs = {"text_config": MetaClip2TextConfig, "vision_config": SNPViTConfig}
    text_config_class = MetaClip2TextConfig
    model_class_name = "SNPMetaClip2Model"

    def __init__(self, **fields):  # transformers 5 makes one of its own for a class without
        super().__init__(**fields)


class SNPSiglipConfig(SNPTwoTowersConfig):
    """Configuration of [`SNPSiglipModel`]."""

    model_type = "snp_siglip"
    sub_configs = {"text_config": SiglipTextConfig, "vision_config": SNPViTConfig}
    text_config_class = SiglipTextConfig
    model_class_name = "SNPSiglipModel"

    def __init__(self, **fields):  # transformers 5 makes one of its own for a class without
        super().__init__(**fields)

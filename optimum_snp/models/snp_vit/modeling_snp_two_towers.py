"""Models of images and texts (CLIP, MetaCLIP 2, SigLIP) whose vision tower is a pruned one.

All but the vision tower is that of the class of transformers that each derives from: its text tower, its scores, its
loss, and what it puts out.

This file is copied into every saved checkpoint. It must import nothing but torch, transformers and its siblings, and
must load under transformers 4.57 and 5.x.
"""

import torch
from torch import nn
from transformers import (
    CLIPModel,
    CLIPTextModel,
    MetaClip2Model,
    MetaClip2TextModel,
    PreTrainedModel,
    SiglipModel,
    SiglipTextModel,
)
from transformers.utils.generic import can_return_tuple

from .configuration_snp_two_towers import SNPCLIPConfig, SNPMetaClip2Config, SNPSiglipConfig
from .configuration_snp_vit import SNPViTConfig
from .modeling_snp_vit import SNPViTModel, SNPViTModelOutput


class SNPTwoTowersMixin:
    """What the classes below have in common; each derives from it and from a class of transformers."""

    main_input_name = "pixel_values"
    text_model_class = None
    _supports_sdpa = True
    _supports_flash_attn = False  # the text tower needs a mask that 4.57 makes for other attention only
    _no_split_modules = ["CLIPEncoderLayer", "MetaClip2EncoderLayer", "SiglipEncoderLayer", "SNPViTLayer"]

    def __init__(self, config):
        # Not that of the class of transformers, which would build a vision tower of its own.
        PreTrainedModel.__init__(self, config)
        text_tower = self.text_model_class._from_config(config.text_config)
        self.text_model = getattr(text_tower, "text_model", text_tower)  # in transformers 4.57 it is one further in
        self.vision_model = SNPViTModel(config.vision_config)
        self._build_heads(config)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls):
        return True

    def get_input_embeddings(self):
        return self.vision_model.get_input_embeddings()

    def embed_images(self, pooler_output):
        """The embeddings of images, `[batch, size]`, not of length 1 yet, from what the vision tower pools."""
        raise NotImplementedError

    @can_return_tuple
    def forward(
        self,
        pixel_values=None,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        return_loss=None,
        interpolate_pos_encoding=None,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ):
        r"""
        Args:
            pixel_values, interpolate_pos_encoding, output_attentions, output_hidden_states:
                See [`SNPViTModel.forward`].
            input_ids (`torch.Tensor` of shape `[texts, tokens]`, *optional*):
                Texts from the tokenizer. Without them there are no scores, only the embeddings of the images.
            attention_mask, position_ids, return_loss, kwargs:
                As the class of transformers takes them, for the texts.

        Returns:
            What the class of transformers gives, such as `logits_per_image`; without texts a
            [`SNPViTModelOutput`] whose `image_embeds` are not of length 1 yet.
        """
        if input_ids is None:
            outputs = self.vision_model(
                pixel_values,
                interpolate_pos_encoding=interpolate_pos_encoding,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
            )
            return SNPViTModelOutput(
                last_hidden_state=outputs.last_hidden_state,
                hidden_states=outputs.hidden_states,
                attentions=outputs.attentions,
                image_embeds=self.embed_images(outputs.pooler_output),
            )
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        asked = {name: value for name, value in asked.items() if value is not None}
        return super().forward(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_loss=return_loss,
            interpolate_pos_encoding=bool(interpolate_pos_encoding),
            return_dict=True,
            **asked,
            **kwargs,
        )


class SNPProjectedTowersMixin(SNPTwoTowersMixin):
    """Of those whose embeddings are projections of what the towers give."""

    def _build_heads(self, config):
        self.projection_dim = config.projection_dim
        self.text_embed_dim = config.text_config.hidden_size
        self.vision_embed_dim = config.vision_config.hidden_size
        self.visual_projection = nn.Linear(self.vision_embed_dim, self.projection_dim, bias=config.projection_bias)
        self.text_projection = nn.Linear(self.text_embed_dim, self.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))

    def embed_images(self, pooler_output):
        return self.visual_projection(pooler_output)


class SNPCLIPModel(SNPProjectedTowersMixin, CLIPModel):
    """[`~transformers.CLIPModel`] with a pruned vision tower."""

    config_class = SNPCLIPConfig
    text_model_class = CLIPTextModel


class SNPMetaClip2Model(SNPProjectedTowersMixin, MetaClip2Model):
    """[`~transformers.MetaClip2Model`] with a pruned vision tower."""

    config_class = SNPMetaClip2Config
    text_model_class = MetaClip2TextModel


class SNPSiglipModel(SNPTwoTowersMixin, SiglipModel):
    """[`~transformers.SiglipModel`] with a pruned vision tower."""

    config_class = SNPSiglipConfig
    text_model_class = SiglipTextModel

    def _build_heads(self, config):
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.logit_bias = nn.Parameter(torch.zeros(1))

    def embed_images(self, pooler_output):
        return pooler_output


# So that loading from a folder, which looks for siblings in this file alone, finds all of them.
SIBLINGS = (SNPViTConfig,)

__all__ = ["SNPCLIPModel", "SNPMetaClip2Model", "SNPSiglipModel"]

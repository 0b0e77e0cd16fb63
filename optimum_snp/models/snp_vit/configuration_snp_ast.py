"""Configuration of an audio spectrogram transformer (AST) whose every block states its own sizes.

This file is copied into every saved checkpoint. It must import nothing but transformers and its sibling, and must load
under transformers 4.57 and 5.x.
"""

from .configuration_snp_vit import SNPViTConfig


# What the fields of a ViT are for every such model.
FOLLOWING_FIELDS = {
    "num_channels": 1,
    "use_distillation_token": True,
    "use_pooler": True,
    "pooler_type": "cls_distillation",
    "classifier_pooling": "cls_distillation",
}


class SNPASTConfig(SNPViTConfig):
    r"""
    Configuration of [`SNPASTModel`] and [`SNPASTForAudioClassification`]: a vision transformer whose image is a
    spectrogram, its rows the mel bins and its columns the frames, in patches that overlap.

    Args:
        image_size (pair of `int`, *optional*, defaults to `(128, 1024)`):
            Mel bins and frames of a spectrogram. (To transformers `max_length`, as it is called there, is a setting of
            models that generate.)
        patch_stride (pair of `int`, *optional*, defaults to `(10, 10)`):
            From one patch to the next, in mel bins and frames.
        classifier_norm_size (`int`, *optional*):
            Channels of the norm before the classifier, which a narrower stream leaves as many. Defaults to
            `hidden_size`.
        fields:
            Further ones of [`SNPViTConfig`]. Those of channels, tokens and pooling follow from the kind of the model.

    Raises:
        ValueError: If a value is out of range or contradicts another; it is named.
    """

    model_type = "snp_ast"

    def __init__(self, image_size=(128, 1024), patch_stride=(10, 10), classifier_norm_size=None, **fields):
        for name, value in FOLLOWING_FIELDS.items():
            given = fields.pop(name, value)
            if given != value:
                raise ValueError(f"{name} is {given!r}, but of such a model it is {value!r}. Leave it out.")
        super().__init__(image_size=image_size, patch_stride=patch_stride, **FOLLOWING_FIELDS, **fields)
        self.classifier_norm_size = self.hidden_size if classifier_norm_size is None else classifier_norm_size
        self.auto_map = {
            "AutoConfig": "configuration_snp_ast.SNPASTConfig",
            "AutoModel": "modeling_snp_ast.SNPASTModel",
            "AutoModelForAudioClassification": "modeling_snp_ast.SNPASTForAudioClassification",
        }

    @property
    def num_mel_bins(self):
        """Frequencies of a spectrogram."""
        return self.image_size[0]

    @property
    def num_frames(self):
        """Steps in time of a spectrogram."""
        return self.image_size[1]


__all__ = ["SNPASTConfig"]

"""An audio spectrogram transformer (AST) whose every block has its own sizes.

This file is copied into every saved checkpoint. It must import nothing but torch, transformers and its siblings, and
must load under transformers 4.57 and 5.x.
"""

from torch import nn

from .configuration_snp_ast import SNPASTConfig
from .modeling_snp_vit import SNPViTForImageClassification, SNPViTModel, build_norm


def as_images(input_values, config):
    """Spectrograms `[batch, frames, mel bins]` as images of one channel, `[batch, 1, mel bins, frames]`."""
    expected = (config.num_frames, config.num_mel_bins)
    if tuple(input_values.shape[1:]) != expected:
        raise ValueError(
            f"The spectrograms are of shape {tuple(input_values.shape[1:])}; the model reads {expected} (frames, mel "
            "bins). Prepare sounds with its feature extractor."
        )
    return input_values.transpose(1, 2).unsqueeze(1)


class SNPASTModel(SNPViTModel):
    """The network up to the final norm; its pooler gives the mean of class and distillation token."""

    config_class = SNPASTConfig
    main_input_name = "input_values"

    def forward(self, input_values, output_attentions=None, output_hidden_states=None, **kwargs):
        r"""
        Args:
            input_values (`torch.Tensor` of shape `[batch, num_frames, num_mel_bins]`):
                Spectrograms from the feature extractor.
            output_attentions, output_hidden_states, kwargs:
                See [`SNPViTModel.forward`].

        Returns:
            [`SNPViTModelOutput`]

        Raises:
            ValueError: If there is a mask among the arguments, or spectrograms have another shape.
        """
        return super().forward(
            as_images(input_values, self.config),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )


class SNPASTForAudioClassification(SNPViTForImageClassification):
    """The network with a norm and a linear classifier on the mean of class and distillation token.

    A linear layer leads to that norm, whose channels stay as many when the stream gets narrower. In the dense network
    it changes nothing.
    """

    config_class = SNPASTConfig
    main_input_name = "input_values"

    def __init__(self, config):
        super().__init__(config)
        self.classifier_projection = nn.Linear(config.hidden_size, config.classifier_norm_size)
        self.classifier_norm = build_norm(config, config.classifier_norm_size)
        self.classifier = self._build_classifier(config.classifier_norm_size)
        self.post_init()

    def pool(self, last_hidden_state):
        """What the classifier reads of `[batch, tokens, hidden_size]`: one vector per sound."""
        return self.classifier_norm(self.classifier_projection(super().pool(last_hidden_state)))

    def forward(self, input_values, labels=None, output_attentions=None, output_hidden_states=None, **kwargs):
        r"""
        Args:
            input_values, output_attentions, output_hidden_states:
                See [`SNPASTModel.forward`].
            labels, kwargs:
                See [`SNPViTForImageClassification.forward`].

        Returns:
            [`SNPViTForImageClassificationOutput`]
        """
        return super().forward(
            as_images(input_values, self.config),
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )


__all__ = ["SNPASTForAudioClassification", "SNPASTModel"]

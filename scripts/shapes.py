"""Dense models of well-known shapes with random weights: enough where time, memory and costs are the question."""

from transformers import PreTrainedModel, SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification


_DEIT = {
    "deit-tiny": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "deit-small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "deit-base": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
_SWIN = {
    "swin-tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "swin-small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]},
    "swin-base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
}
DEITS = tuple(_DEIT)
SHAPES = (*_DEIT, *_SWIN)

# Half of every block, and a fifth of the width.
SHARES = {"qk_sparsity": 0.5, "v_sparsity": 0.5, "mlp_sparsity": 0.5, "hidden_sparsity": 0.2}


def build_dense(shape: str) -> PreTrainedModel:
    """A classifier of transformers for images of 224 px and 1,000 classes, untrained, in eval mode."""
    if shape in _DEIT:  # the published DeiT without distillation token are ViT
        return ViTForImageClassification(ViTConfig(num_labels=1000, **_DEIT[shape])).eval()
    return SwinForImageClassification(SwinConfig(num_labels=1000, **_SWIN[shape])).eval()

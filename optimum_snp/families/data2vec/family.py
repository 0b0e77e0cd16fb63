"""data2vec-vision."""

from typing import ClassVar

from ...models import SNPViTForImageClassification, SNPViTModel
from ..beit import BeitFamily
from ..beit.weights import TABLE


class Data2VecVisionFamily(BeitFamily):
    """A BEiT under other names; its bare model has no pooler."""

    title = "data2vec-vision"
    model_types = ("data2vec-vision",)
    source_classes = {
        "Data2VecVisionModel": SNPViTModel,
        "Data2VecVisionForImageClassification": SNPViTForImageClassification,
    }
    short_names = {f"data2vec-vision-{size}": f"facebook/data2vec-vision-{size}" for size in ("base", "large")}
    limits = (
        "the width of a `Data2VecVisionModel` with `use_mean_pooling` within a budget, since its tokens are an output "
        "without a norm"
    )
    refused = {
        "Data2VecVisionForSemanticSegmentation": "its decoder reads feature maps of blocks by their places. Prune a "
        "Data2VecVisionModel.",
        "Data2Vec": "it reads text or sound. Of data2vec, Data2VecVisionModel and "
        "Data2VecVisionForImageClassification can be pruned.",
    }

    native_version = None

    renamed: ClassVar[dict[str, str]] = {
        "encoder.layer.": "layers.",
        f"attention.attention.relative_position_bias.{TABLE}": "attention.relative_position_bias.table",
        "attention.attention.query.": "attention.q_proj.",
        "attention.attention.key.": "attention.k_proj.",
        "attention.attention.value.": "attention.v_proj.",
        "attention.output.dense.": "attention.o_proj.",
        "intermediate.dense.": "mlp.fc1.",
        "output.dense.": "mlp.fc2.",
        "pooler.layernorm.": "layernorm.",
    }
    shared_table: ClassVar[str] = f"encoder.relative_position_bias.{TABLE}"

"""What the contract of the families is tried on: small sources of every class, in every variant of its family."""

from dataclasses import dataclass, field
from functools import cached_property

import pytest
import torch

from optimum_snp import SNPPruner
from optimum_snp.families import family_of_source
from optimum_snp.models import SNPModel
from optimum_snp.structure import block_sizes, stream_widths
from tests.helpers import CLASSES, prunable


IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SPECTROGRAMS = torch.randn(12, 32, 24, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True, eq=False)
class Case:
    """One source."""

    class_name: str
    variant: str = ""
    options: dict = field(default_factory=dict)

    def __str__(self):
        return "-".join(filter(None, (self.class_name, self.variant)))

    @property
    def family(self):
        """Its family, which builds it."""
        return family_of_source(self.class_name)

    @property
    def images(self):
        """What it reads."""
        return SPECTROGRAMS if self.class_name.startswith("AST") else IMAGES

    def source(self, **options):
        """A model of transformers."""
        return self.family.example(self.class_name, **{**self.options, **options})

    @cached_property
    def calibrated(self):
        """A calibrated pruner of it, to be copied; its attention is eager, which gives maps."""
        pruner = SNPPruner.from_pretrained(self.source(attn_implementation="eager"))
        pruner.calibrate(self.images, num_samples=len(self.images))
        return pruner

    @property
    def model(self) -> SNPModel:
        """The dense model in our architecture; not to be changed."""
        return self.calibrated.model

    @property
    def has_classifier(self):
        """Whether it can be trained."""
        return self.class_name.endswith(("ForImageClassification", "ForAudioClassification", "WithTeacher"))

    def shares(self):
        """Shares of every part that can get smaller, of all together, and of whole heads and blocks."""
        num_blocks, num_streams = len(block_sizes(self.model.config)), len(stream_widths(self.model.config))

        def uneven(*shares):
            return [shares[index % len(shares)] for index in range(num_blocks)]

        shares = {
            "queries and keys": {"qk_sparsity": 0.5},
            "values": {"v_sparsity": 0.3},
            "MLP": {"mlp_sparsity": 0.7},
            "width": {"hidden_sparsity": 0.25},
            "last width": {"hidden_sparsity": [0.0] * (num_streams - 1) + [0.8]},
            "heads": {"head_sparsity": 0.5},
            "blocks": {"dropped_blocks": 2},
            "whole": {
                "head_sparsity": 0.3,
                "dropped_blocks": [0],
                "qk_sparsity": 0.5,
                "v_sparsity": 0.3,
                "hidden_sparsity": 0.25,
            },
            "uneven": {
                "qk_sparsity": uneven(0.9, 0.0, 0.4, 0.99, 0.2),
                "v_sparsity": uneven(0.0, 0.99, 0.5, 0.1, 0.3),
                "mlp_sparsity": uneven(0.5, 0.99, 0.0, 0.3, 0.7),
                "hidden_sparsity": [0.5, 0.3][:num_streams],
            },
        }
        found = {name: prunable(self.model.config, **options) for name, options in shares.items()}
        return {name: options for name, options in found.items() if options}


CASES = [
    case
    for class_name in CLASSES
    for case in (
        Case(class_name),
        *(
            Case(class_name, name, options)
            for name, options in family_of_source(class_name).variants(class_name).items()
        ),
    )
]
# One test each. Those of networks that another case has as well, with a classifier or another option, take long for
# what they tell, and are marked so.
_ALIKE = (
    "ViTModel-",  # which has a variant
    "DeiTModel",
    "DeiTForImageClassification-",
    "DeiTForImageClassificationWithTeacher-",
    "SwinModel-",
    "SwinForImageClassification-",
    "Dinov2ForImageClassification",
    "Dinov2Backbone-tokens",
    "Dinov2WithRegistersModel",
    "Dinov2WithRegistersForImageClassification-",
    "BeitModel-",
    "BeitForImageClassification-class token",
    "BeitBackbone-tokens",
    "SiglipVisionModel-",
    "ASTModel",
    "MetaClip2",
    "ViTMSN",
    "IJepa",
    "Data2Vec",
    "Swinv2Model",
    "Swinv2Backbone",
    "Swinv2ForImageClassification-",
)
PARAMS = [
    pytest.param(case, id=str(case), marks=[pytest.mark.slow] if str(case).startswith(_ALIKE) else [])
    for case in CASES
]
SHARES = ("queries and keys", "values", "MLP", "width", "last width", "heads", "blocks", "whole", "uneven")


def first_of_each_family(cases):
    """The first case of every family that is not marked already; the others take long, and are marked so."""
    seen = set()
    params = []
    for case in cases:
        is_slow = case.family.title in seen or str(case).startswith(_ALIKE)
        params.append(pytest.param(case, id=str(case), marks=[pytest.mark.slow] if is_slow else []))
        if not is_slow:
            seen.add(case.family.title)
    return params

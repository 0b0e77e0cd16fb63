"""The families of models that can be pruned. One folder holds all that is known of one, and nothing else does.

A family from outside this package registers itself the same way: `register_family(MyFamily())`.
"""

from .ast import ASTFamily
from .beit import BeitFamily
from .clip import CLIPFamily
from .convert import check_supported, convert, our_weights
from .data2vec import Data2VecVisionFamily
from .deit import DeiTFamily
from .dinov2 import DINOv2Family
from .dinov3 import DINOv3Family
from .family import Family, config_fields
from .ijepa import IJepaFamily
from .native import native_config, native_family, native_intermediate_sizes, native_model
from .registry import (
    class_name_of,
    convert_image_processor,
    families,
    family_of_config,
    family_of_model,
    family_of_source,
    our_classes,
    register_family,
    short_names,
    source_classes,
)
from .siglip import SigLIPFamily
from .swin import SwinFamily
from .swinv2 import SwinV2Family
from .table import family_facts, family_table
from .timm import TimmFamily
from .vit import ViTFamily
from .vit_mae import ViTMAEFamily
from .vit_msn import ViTMSNFamily


for family in (
    ViTFamily(),
    DeiTFamily(),
    SwinFamily(),
    SwinV2Family(),
    DINOv2Family(),
    DINOv3Family(),
    BeitFamily(),
    Data2VecVisionFamily(),
    CLIPFamily(),
    SigLIPFamily(),
    ViTMSNFamily(),
    IJepaFamily(),
    ViTMAEFamily(),
    ASTFamily(),
    TimmFamily(),
):
    register_family(family)


__all__ = [
    "Family",
    "check_supported",
    "class_name_of",
    "config_fields",
    "convert",
    "convert_image_processor",
    "families",
    "family_facts",
    "family_of_config",
    "family_of_model",
    "family_of_source",
    "family_table",
    "native_config",
    "native_family",
    "native_intermediate_sizes",
    "native_model",
    "our_classes",
    "our_weights",
    "register_family",
    "short_names",
    "source_classes",
]

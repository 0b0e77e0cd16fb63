"""The methods of pruning, one object each: how it scores, what its sizes lose, how it reshapes."""

from ..configuration import SNPConfig
from .few_images import warn_of_few_images
from .method import Method
from .projection import Projection
from .snp import SNP
from .snp_refit import SNPRefit


METHODS: dict[str, Method] = {method.name: method for method in (SNP(), SNPRefit(), Projection())}


def method_of(config: SNPConfig) -> Method:
    """The method that a config asks for."""
    return METHODS[config.method]


__all__ = ["METHODS", "SNP", "Method", "Projection", "SNPRefit", "method_of", "warn_of_few_images"]

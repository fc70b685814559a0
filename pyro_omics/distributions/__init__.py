"""Distributions over counts, in the field's parameters, and distributions for guides and priors."""

from pyro_omics.distributions.counts import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    masked,
)
from pyro_omics.distributions.quadrature import Quadrature

__all__ = [
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "Poisson",
    "Quadrature",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "masked",
]

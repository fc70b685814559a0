"""Distributions over counts, in the parameters that the field uses, and what guides and priors are made of."""

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

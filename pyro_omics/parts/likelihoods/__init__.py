"""Likelihoods: distributions of counts, given their mean.

A likelihood is a PyroModule that owns its global parameters, lists in ``heads`` the further outputs that it needs from
the decoder, and maps (mean, heads, batch) to a distribution. A new likelihood is one class in its own file, imported
here.
"""

from pyro_omics.parts.likelihoods.base import Likelihood
from pyro_omics.parts.likelihoods.mixture import NegativeBinomialMixture
from pyro_omics.parts.likelihoods.negative_binomial import NegativeBinomial
from pyro_omics.parts.likelihoods.poisson import Poisson
from pyro_omics.parts.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson

__all__ = [
    "Likelihood",
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
